"""Denoise a micrograph, say which noise was found, and look at what was taken away."""

import numpy as np

import knitcore as knit

image = knit.read_image("fluo_neuron_16bit.tif")
result = knit.denoise(image)

for found in result.record["noise"]:
    print(found)
taken = result.residual
print(f"taken away: standard deviation {taken.std():.1f} grey levels")
alike = np.corrcoef(taken[:, 1:].ravel(), taken[:, :-1].ravel())[0, 1]
print(f"correlation of neighbours in it: {alike:.2f} (structure would show as a high one)")
knit.write_result(result, "denoised_micrograph.tif", overwrite=True)
