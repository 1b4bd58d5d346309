"""Pictures of what a trained network saw, as arrays.

Modules in reading order: probe (a network for gradients and activations), why (the reasons for a class),
strongest (the patches to which a layer's channels respond most), features (activations of many images), map
(features in the plane).
"""
