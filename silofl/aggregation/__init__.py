"""Many vectors in, one out, collectively."""
