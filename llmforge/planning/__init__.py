"""What a training will take, by arithmetic: memory, time, disk. Nothing here builds a model or touches a device."""
