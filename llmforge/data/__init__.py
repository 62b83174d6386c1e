"""From files to packed rows: sources, splits, packing, the dataset on disk, and its way into a batch."""
