"""Audits of the privacy claim: what an attacker with canaries proves of a run, beside what the run claims."""
