"""Follow a fit event by event, and stop it."""

import threading

import knitcore as knit

image = knit.read_image("damaged_micrograph.tif")
mask = knit.read_mask("damaged_micrograph_mask.png")

stop = threading.Event()
try:
    for event in knit.inpaint_steps(image, mask, cancel=stop, previews=True):
        if isinstance(event, knit.Progress):
            print(f"{event.fraction:4.0%} {event.stage}")
        elif isinstance(event, knit.Preview):
            print("preview of", event.values.shape, "pixels")
            stop.set()  # one look was enough
        elif isinstance(event, knit.Note):
            print(f"{event.level}: {event.text}")
except knit.Cancelled:
    print("stopped")
