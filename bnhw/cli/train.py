"""The command that trains: train."""

from pathlib import Path
from typing import Annotated

import typer

from bnhw.cli.console import progress_bar, say
from bnhw.cli.parameters import option


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="paper-1, paper-1-imagenet, paper-2-monotone, paper-2-step, paper-2-cyclic, paper-2-warm-up, paper-3, "
            "paper-3-base, paper-4 or mnist.",
        ),
    ],
    data: Annotated[Path, option("PATH", "Images with labels: a file or a folder.", "--data")],
    output: Annotated[Path, option("FILE", "The checkpoint to write (.safetensors or .pt).", "--output", "-o")],
    test_data: Annotated[Path | None, option("PATH", "Test images, where --data has none.", "--test-data")] = None,
    dataset: Annotated[str | None, option("NAME", "Data set to look for in a folder.", "--dataset")] = None,
    network: Annotated[str, option("NAME", "wrn-14-1, wrn-20-4, resnet-18-cifar, ...", "--network")] = "wrn-20-4",
    norm: Annotated[
        str | None,
        option("NAME", "batch_norm, shifted_relu, ... [default: the network's own].", "--norm"),
    ] = None,
    weights: Annotated[str | None, option("KIND", "1bit or float [default: the network's own].", "--weights")] = None,
    width: Annotated[float | None, option("W", "Width of a wide residual network.", "--width")] = None,
    crop: Annotated[int | None, option("PIXELS", "Side of the input, less than the images'.", least=1)] = None,
    temperature: Annotated[float | None, option("T", "Divisor of the logits; 30 to 100.", "--temperature")] = None,
    gain: Annotated[float | None, option("GAMMA", "Initial gain of scaled batch norm.", "--gain")] = None,
    dropout: Annotated[float | None, option("P", "Probability of dropout in a block.", "--dropout")] = None,
    input_norm: Annotated[
        str | None, option("KIND", "Of the image: fixed, offline, batch_norm, batch_norm_minus, none.", "--input-norm")
    ] = None,
    epochs: Annotated[int | None, option("N", "Instead of the recipe's.", "--epochs", least=1)] = None,
    batch_size: Annotated[int | None, option("N", "Instead of the recipe's.", "--batch-size", least=1)] = None,
    rate: Annotated[float | None, option("RATE", "Highest learning rate, instead of the recipe's.", "--rate")] = None,
    seed: Annotated[int, option("N", "Of weights, batches and augmentation.", "--seed")] = 1,
    device: Annotated[str | None, option("NAME", "cpu or cuda [default: cuda if present].", "--device")] = None,
    precision: Annotated[str, option("NAME", "auto (bfloat16 on CUDA), float32, bfloat16.", "--precision")] = "auto",
    threads: Annotated[int | None, option("N", "Threads of torch.", "--threads", least=1, most=256)] = None,
) -> None:
    """Train a network by a paper's recipe. The same command continues a training that was killed.

    Needs the extra `torch`.
    """
    from bnhw.export.training_job import TrainingJob, run_job, set_threads

    job = TrainingJob(
        recipe=recipe,
        data=data,
        output=output,
        test_data=test_data,
        dataset=dataset,
        network=network,
        norm=norm,
        weights=weights,
        width=width,
        crop=crop,
        temperature=temperature,
        gain=gain,
        dropout=dropout,
        input_norm=input_norm,
        epochs=epochs,
        batch_size=batch_size,
        rate=rate,
        seed=seed,
        device=device,
        precision=precision,
    )
    set_threads(threads)
    outcome = run_job(job, progress_bar, say)
    right = f"{100 * outcome.test.accuracy:.2f} % of the test images right"
    say(f"wrote {output}: {right}, weights of epoch {outcome.epoch}")
