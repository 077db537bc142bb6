"""What the article's tables share: image size, order of images, steps, and the article's own figures.

The learned systems cost hours an image at full size and length on a CPU, so the tables are measured on
reduced images by default; `--side 0` is full size, `--full` the articles' lengths.
"""

from __future__ import annotations

SIDE = 96  # long side of the images, in pixels, for every method alike

# In this order, so that a run that is stopped has whole images of both sets. set14/face is left to the
# end: it is the photograph of set5/head, cut otherwise.
ORDER = (
    "set5/butterfly.png",
    "set5/bird.png",
    "set14/foreman.png",
    "set5/woman.png",
    "set14/zebra.png",
    "set5/head.png",
    "set5/baby.png",
    "set14/monarch.png",
    "set14/baboon.png",
    "set14/pepper.png",
    "set14/barbara.png",
    "set14/lenna.png",
    "set14/flowers.png",
    "set14/comic.png",
    "set14/ppt3.png",
    "set14/coastguard.png",
    "set14/man.png",
    "set14/bridge.png",
    "set14/face.png",
)
QUICK = ("set5/butterfly.png",)

# steps by method and task: of the tables, of --quick, and at full length (the articles')
STEPS = {
    "mlp": {"inpaint": 300, "denoise": 300, "super-resolve": 300},
    "dip": {"inpaint": 800, "denoise": 800, "super-resolve": 800},
    "singan": {"inpaint": 100, "denoise": 100, "super-resolve": 100},  # a scale
    "paper": {"inpaint": 600, "denoise": 600, "super-resolve": 300},
    "zs-n2n": {"denoise": 2000},
    "noise2fast": {"denoise": 0},  # its own rule of stopping
}
FULL_STEPS = {
    "mlp": {"inpaint": 2000, "denoise": 2000, "super-resolve": 2000},
    "dip": {"inpaint": 3000, "denoise": 3000, "super-resolve": 4000},
    "singan": {"inpaint": 2000, "denoise": 2000, "super-resolve": 2000},
    "paper": {"inpaint": 4000, "denoise": 4000, "super-resolve": 4000},
    "zs-n2n": {"denoise": 2000},
    "noise2fast": {"denoise": 0},
}
QUICK_SHARE = 0.2  # of the steps
TILE = 128  # `paper` sees an image of up to this size in one piece, which is quicker on a CPU

TITLES = {
    "fast": "**Knitworks, `fast`**",
    "paper": "Neural Knitwork, `paper`",
    "mlp": "coordinate MLP",
    "dip": "deep image prior",
    "singan": "SinGAN",
    "zs-n2n": "ZS-N2N",
    "noise2fast": "Noise2Fast",
    "harmonic": "harmonic",
    "biharmonic": "biharmonic",
    "telea": "Telea",
    "navier-stokes": "Navier–Stokes",
    "noisy": "noisy",
    "nlm": "NLM, σ given",
    "wavelet": "wavelets, σ given",
    "tv": "TV, σ given",
    "bm3d": "BM3D, σ given",
    "bicubic": "bicubic",
    "tv-known": "TV, kernel known",
}

# Czerkawski et al. 2021: PSNR/SSIM by table, row and column
ARTICLE_INPAINTING = {
    "whole": {
        "mlp": "32.99/0.98 28.65/0.97 25.85/0.96 28.97/0.95 26.38/0.94 24.00/0.93",
        "dip": "32.53/0.95 29.35/0.92 26.22/0.88 28.22/0.90 27.08/0.89 25.53/0.89",
        "paper": "32.00/0.96 29.81/0.94 27.96/0.95 27.65/0.91 26.03/0.91 24.44/0.89",
    },
    "hole": {
        "mlp": "13.96/0.36 11.89/0.28 11.89/0.32 11.85/0.23 10.79/0.23 10.67/0.24",
        "dip": "20.66/0.68 18.50/0.57 15.89/0.52 16.32/0.41 15.32/0.40 14.08/0.37",
        "paper": "18.28/0.58 17.79/0.57 14.95/0.48 15.50/0.40 13.94/0.39 12.35/0.36",
    },
}
ARTICLE_SUPER_RESOLUTION = {
    "mlp": """31.58/0.95 23.78/0.83 24.95/0.86 25.38/0.85 23.47/0.81 24.61/0.84
        27.22/0.89 22.09/0.75 22.96/0.78 22.45/0.76 21.90/0.73 22.52/0.76""",
    "singan": """19.22/0.65 19.95/0.72 21.59/0.75 17.16/0.53 19.15/0.66 20.75/0.72
        14.21/0.41 16.96/0.56 17.21/0.57 14.32/0.33 17.75/0.56 18.65/0.62""",
    "paper": """27.39/0.88 24.62/0.82 25.48/0.84 23.81/0.81 24.22/0.82 25.36/0.84
        24.31/0.82 22.08/0.74 22.35/0.75 21.72/0.75 22.05/0.73 21.56/0.71""",
}
ARTICLE_DENOISING = {
    "mlp": "23.58/0.70 17.76/0.42 12.43/0.19 24.94/0.77 19.56/0.55 14.55/0.30",
    "dip": "27.56/0.85 19.15/0.49 11.60/0.15 26.95/0.84 19.70/0.53 12.62/0.19",
    "paper": "26.69/0.83 21.69/0.63 15.91/0.37 26.15/0.85 23.08/0.73 18.75/0.56",
}
ARTICLE_PARAMETERS = {
    "mlp": "263 K",
    "dip": "2,400 K",
    "singan": "2,381 K",
    "paper": "512 K (608 K)",
}
