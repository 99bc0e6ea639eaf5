"""One subject as arrays: trials by voxels."""
