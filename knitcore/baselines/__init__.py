"""The peers that the product is measured against, written from their papers.

Nothing in `knitcore` outside this folder imports them. Each task of each peer is a generator of events,
``NAME_steps(image, mask | scale | nothing, *, seed, steps, device)``, and a plain function ``NAME`` that
runs it to its end. All take one picture, (Y, X) or (Y, X, C) of any real dtype, and return float32 of the
picture's grey levels, as the model has it: known pixels are not copied over it, values not clipped.
"""
