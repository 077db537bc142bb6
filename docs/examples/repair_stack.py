"""Fill a block of a stack: Z is fitted together with Y and X, pixel sizes are taken into account."""

from dataclasses import replace

import numpy as np

import knitcore as knit

stack = knit.read_image("zstack_nucleus_crop.tif")
print(stack.axes, stack.shape, stack.pixel_size, stack.unit)

mask = np.zeros(stack.shape, bool)
mask[6:9, 20:28, 30:40] = True
damaged = np.asarray(stack.data).copy()
damaged[mask] = 0

result = knit.inpaint(replace(stack, data=damaged), mask)

error = result.image[mask].astype(float) - np.asarray(stack.data)[mask]
print(f"error inside: {np.sqrt(np.mean(error**2)):.0f} grey levels")
print(f"expected:     {np.sqrt(np.mean(result.std[mask] ** 2)):.0f}")
knit.write_result(result, "repaired_stack.tif", overwrite=True)
