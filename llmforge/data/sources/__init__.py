"""Where documents come from: files, archives, URLs; found as units, read one by one."""
