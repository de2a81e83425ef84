"""OpenVINO GenAI's continuous batching behind `/v1/completions`.

The pipeline with paged attention, and not the stateful one, which serves one sequence at a time and decodes it no
faster. Over HTTP the 100 M model decodes eight sequences no slower than the pipeline called in its own process (best of
16 rounds each, in turn: 528 and 392 tokens/s on a busy machine, so the difference is noise, and not the server's cost).
"""

import pathlib

import openvino as ov
import openvino_genai as genai

import completions

# Positions of a block of OpenVINO's KV cache on a CPU.
BLOCK = 32


def main():
    parser = completions.arguments()
    parser.add_argument("--precision", required=True, help="what matrices are multiplied in: bf16 or f32")
    parser.add_argument("--kv", required=True, help="what keys and values are kept in: bf16, f32, f16 or u8")
    parser.add_argument("--dynamic-group", type=int, required=True, help="group of activations rounded to int8; 0: none")
    parser.add_argument("--batched-tokens", type=int, required=True, help="most tokens of one step")
    parser.add_argument("--pinning", choices=["on", "off"], required=True)
    args = parser.parse_args()
    engine = Engine(args)
    completions.serve(args, engine.run)


class Engine:
    def __init__(self, args):
        scheduler = genai.SchedulerConfig()
        scheduler.max_num_seqs = args.concurrency
        scheduler.max_num_batched_tokens = args.batched_tokens
        scheduler.enable_prefix_caching = True
        # Room for every sequence at its longest, so that none is preempted.
        scheduler.num_kv_blocks = (args.context // BLOCK + 2) * args.concurrency
        properties = {
            "INFERENCE_NUM_THREADS": args.threads,
            "INFERENCE_PRECISION_HINT": args.precision,
            "KV_CACHE_PRECISION": args.kv,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": args.dynamic_group,
            "ENABLE_CPU_PINNING": args.pinning == "on",
            "NUM_STREAMS": 1,
        }
        self.pipeline = genai.ContinuousBatchingPipeline(args.model, scheduler, "CPU", properties)
        self.settings = str(pathlib.Path(args.model) / "generation_config.json")
        self.n_begun = 0

    def run(self, inbox):
        live = []
        while True:
            while (sequence := inbox.take(is_idle=not live)) is not None:
                live.append((sequence, self.begin(sequence)))
            self.pipeline.step()
            live = [(sequence, handle) for sequence, handle in live if advance(sequence, handle)]

    def begin(self, sequence):
        settings = genai.GenerationConfig(self.settings)
        settings.do_sample = False
        settings.ignore_eos = sequence.ignore_eos
        settings.max_new_tokens = sequence.max_tokens
        self.n_begun += 1
        return self.pipeline.add_request(self.n_begun, ov.Tensor([sequence.prompt]), settings)


def advance(sequence, handle):
    """Passes on what a step made. True while there is more to come."""
    while handle.can_read():
        for output in handle.read().values():
            if not sequence.add(output.generated_ids):
                handle.stop()
    if handle.get_status() == genai.GenerationStatus.RUNNING:
        return True
    sequence.finish()
    return False


if __name__ == "__main__":
    main()
