"""napari widgets over `knitcore`."""
