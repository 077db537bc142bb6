"""Enlarge a micrograph twofold, and print the blur that was found."""

from dataclasses import replace

import numpy as np

import knitcore as knit

image = knit.read_image("fluo_bacteria_crop.tif")
corner = replace(image, data=np.asarray(image.data)[:96, :96])
result = knit.super_resolve(corner, 2)

print(corner.shape, "->", result.image.shape, result.as_image().pixel_size)
print({name: value for name, value in result.record["kernel"].items() if name != "values"})
print("left after degrading the result again:", result.record["residual"])
knit.write_result(result, "enlarged_micrograph.tif", overwrite=True)
