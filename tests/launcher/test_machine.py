"""Quotas of control groups."""

from silofl.launcher import machine


def test_a_cgroup_quota_limits_cores(tmp_path):
    own = tmp_path / "own"
    own.write_text("0::/job\n")
    assert machine.quota_cores(tmp_path, own) > 1000
    (tmp_path / "job").mkdir()
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.quota_cores(tmp_path, own) > 1000
    (tmp_path / "job" / "cpu.max").write_text("250000 100000\n")
    assert machine.quota_cores(tmp_path, own) == 3


def test_a_cgroup_quota_of_version_1_limits_cores(tmp_path):
    own = tmp_path / "own"
    own.write_text("5:memory:/job\n4:cpu,cpuacct:/job\n")
    folder = tmp_path / "cpu" / "job"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.quota_cores(tmp_path, own) > 1000
    (folder / "cpu.cfs_quota_us").write_text("50000\n")
    assert machine.quota_cores(tmp_path, own) == 1


def test_missing_cgroups_limit_nothing(tmp_path):
    assert machine.quota_cores(tmp_path, tmp_path / "none") > 1000
