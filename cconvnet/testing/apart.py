"""Fused operations computed by the separate ones, called one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cconvnet._problem import BatchNormProblem, BiasProblem, DropoutProblem, NeuronProblem

Outputs = dict[str, np.ndarray[Any, Any]]


def apart(operation: str, problem: Any, inputs: dict[str, Any], call: Callable[..., Outputs]) -> Outputs:
    """Compute the outputs of a fused operation by the separate ones.

    Args:
        operation: The name of the fused operation.
        problem: Its problem, a tuple if it has several.
        inputs: Its inputs by name.
        call: A function that runs an operation: ``call(operation, problem, inputs)`` returns its outputs by
            name.

    Raises:
        ValueError: The operation is not fused of others.
    """
    given = dict(inputs)
    match operation.split("_", 1):
        case _, "fprop":
            dropout, step, relu = given.pop("dropout", None), given.pop("step", None), given["relu"]
            measured = [given.pop(name, None) for name in ("mean", "variance", "unbiased", "counted")]
            y = call(operation, problem, {**given, "relu": False})["y"]
            if relu:
                y = call("relu_forward", NeuronProblem(y.size), {"x": y.ravel()})["y"]
            if dropout is not None:
                y = call("dropout", dropout, {"x": y.ravel(), "step": step})["y"]
            if not measured[0]:
                return {"y": y}
            of = BatchNormProblem(y.size // problem.k, problem.k, measured[-1])
            return {"y": y, **call("batch_norm_statistics", of, {"x": y.reshape(of.rows, of.k)})}
        case _, "dgrad":
            return _epilogue_apart(operation, problem, given, call)
        case _, "wgrad":
            sgd = given.pop("update")
            dw = call(operation, problem, {name: given.pop(name) for name in ("x", "dy")})["dw"]
            return call("sgd_update", sgd, {"g": dw, **given})
    match operation:
        case "maxpool_backward" | "avgpool_backward":
            return _epilogue_apart(operation, problem, given, call)
        case "sgd_update":
            w_bf16 = given.pop("w_bf16")
            updated = call(operation, problem, given)
            if not given["halt"].any():
                w_bf16 = call("to_bf16", NeuronProblem(w_bf16.size), {"x": updated["w"].ravel()})["y"]
            return {**updated, "w_bf16": w_bf16}
        case "batch_norm_forward":
            shortcut, relu = given["shortcut"], given["relu"]
            y = call(operation, problem, {**given, "shortcut": None, "relu": False})["y"]
            if shortcut is not None:
                # Rows that do not count stay 0.
                shortcut = shortcut * (np.arange(problem.rows) < problem.counted)[:, None]
                terms = {"a": y.ravel(), "b": shortcut.ravel()}
                y = call("add", NeuronProblem(y.size), terms)["y"]
            if relu:
                y = call("relu_forward", NeuronProblem(y.size), {"x": y.ravel()})["y"]
            return {"y": y}
        case "batch_norm_backward":
            flat = {"y": given["y"].ravel(), "dy": given["dy"].ravel()}
            dy = call("relu_backward", NeuronProblem(given["dy"].size), flat)["dx"].reshape(given["dy"].shape)
            return call(operation, problem, {**given, "y": None, "dy": dy})
        case "relu_bias_backward":
            dy = given["dy"].ravel()
            dx = call("dropout", DropoutProblem(dy.size, 1.0, given["scale"]), {"x": dy})["y"]
            dx = call("relu_backward", NeuronProblem(dy.size), {"y": given["y"].ravel(), "dy": dx})["dx"]
            return {"dx": dx, **call("bias_grad", problem, {"dy": dx.reshape(problem.rows, problem.k)})}
        case "lrn_maxpool_forward":
            lrn, pool = problem
            return call("maxpool_forward", pool, {"x": call("lrn_forward", lrn, given)["y"]})
        case "lrn_maxpool_backward":
            lrn, pool = problem
            between = {"x": call("lrn_forward", lrn, {"x": given["x"]})["y"]}
            dy = call("maxpool_backward", pool, {**between, "y": given["y"], "dy": given["dy"]})["dx"]
            dx = call("lrn_backward", lrn, {"x": given["x"], "dy": dy})["dx"]
            if given["relu"]:
                flat = {"y": given["x"].ravel(), "dy": dx.ravel()}
                dx = call("relu_backward", NeuronProblem(dx.size), flat)["dx"]
            if "db" not in given:
                return {"dx": dx}
            pixels = BiasProblem(dx.size // pool.c, pool.c)
            return {"dx": dx, **call("bias_grad", pixels, {"dy": dx.reshape(pixels.rows, pixels.k)})}
        case "softmax_cross_entropy":
            scale = given.pop("scale")
            forward = call("softmax_cross_entropy_forward", problem, given)
            backward = {"probabilities": forward["probabilities"], "labels": given["labels"], "scale": scale}
            return forward | call("softmax_cross_entropy_backward", problem, backward)
    raise ValueError(f"{operation} is not fused of others")


def _epilogue_apart(
    operation: str, problem: Any, given: dict[str, Any], call: Callable[..., Outputs]
) -> Outputs:
    """Compute dx by a pass without an epilogue, and apply the epilogue by other operations."""
    options = {name: given.pop(name) for name in ("masked_by", "scale", "db") if name in given}
    dx = call(operation, problem, given)["dx"]
    pixels = BiasProblem(dx.size // dx.shape[-1], dx.shape[-1])
    if "masked_by" in options:
        y = options["masked_by"].reshape(pixels.rows, pixels.k)
        inputs = {"y": y, "dy": dx, "scale": options["scale"]}
        return call("relu_bias_backward", pixels, inputs)
    return {"dx": dx, **call("bias_grad", pixels, {"dy": dx})}
