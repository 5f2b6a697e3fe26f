"""What a run leaves at its end, besides its result."""

from collections.abc import Callable

from .. import outcomes
from ..budget import no_limit
from ..outcomes import mistakes
from ..records import RunFolder, write_json
from ..timing import timed
from .answers import answers
from .evaluate import Evaluation
from .examples import soft_target_examples, worst_mistakes
from .export import save_network
from .step import Job
from .stopping import Stopped


def write_products(
    job: Job, folder: RunFolder, evaluation: Evaluation, *, interrupted: Callable[[], bool] = no_limit
) -> None:
    """evaluation.json, soft_targets.json, mistakes.json, outcomes.safetensors, and the plain network.

    Args:
        interrupted: asked before each batch of the test set, and at the end, whether to break off.
    Raises: TrainingError, DataError; Stopped where `interrupted` said so.
    """
    config, dataset, batch_size = job.config, job.dataset, job.config.eval_batch_size
    with timed("evaluation"):
        said = answers(job.method, dataset, job.machine, batch_size=batch_size, interrupted=interrupted)
        examples = soft_target_examples(job.method, dataset, job.machine, entropy=said.entropy, batch_size=batch_size)
        worst = worst_mistakes(said.outcomes, dataset)
    write_json(folder.evaluation, evaluation.as_dict(dataset.classes))
    write_json(folder.soft_targets, examples)
    mistakes.write(worst, folder.mistakes)
    outcomes.write(said.outcomes, folder.outcomes)
    save_network(job.method.deployable(), folder.weights, config=config, dataset=dataset)
    if interrupted():
        raise Stopped
