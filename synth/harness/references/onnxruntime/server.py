"""ONNX Runtime GenAI's engine behind `/v1/completions`.

On a CPU the engine batches statically: it takes waiting requests together, up to its batch, and others when those have
ended. Its continuous batching needs paged attention, which it has for CUDA alone.
"""

import json

import numpy
import onnxruntime_genai as genai

import completions

# Events that one step may bring: each sequence has a token and an end at most.
EVENTS_PER_SEQUENCE = 4


def main():
    parser = completions.arguments()
    parser.add_argument("--batch", type=int, required=True, help="most sequences of one step")
    parser.add_argument("--spinning", choices=["on", "off"], required=True, help="whether idle threads wait actively")
    args = parser.parse_args()
    engine = Engine(args)
    completions.serve(args, engine.run)


class Engine:
    def __init__(self, args):
        config = genai.Config(args.model)
        config.overlay(
            json.dumps(
                {
                    "model": {
                        "decoder": {
                            "session_options": {
                                "intra_op_num_threads": args.threads,
                                "session.intra_op.allow_spinning": "1" if args.spinning == "on" else "0",
                            }
                        },
                    },
                    "search": {"max_length": args.context},
                    "engine": {"static_batching": {"max_batch_size": args.batch}},
                }
            )
        )
        self.engine = genai.Engine(genai.Model(config))
        self.events = self.engine.create_event_buffer(EVENTS_PER_SEQUENCE * max(args.batch, args.concurrency))

    def run(self, inbox):
        live = {}
        while True:
            while (sequence := inbox.take(is_idle=not live)) is not None:
                request = self.begin(sequence)
                live[request] = sequence
            for event in self.engine.run(self.events):
                self.advance(event, live)

    def begin(self, sequence):
        options = genai.RequestOptions()
        options.set_max_session_tokens(len(sequence.prompt) + sequence.max_tokens)
        request = self.engine.create_request(options=options)
        turn = genai.TurnOptions(request)
        turn.set_do_sample(False)
        turn.set_max_generated_tokens(sequence.max_tokens)
        if sequence.ignore_eos:
            # The engine cannot go on after an end of sequence; so long as an answer is too short it chooses no end.
            turn.set_min_generated_tokens(sequence.max_tokens)
        request.begin_turn(numpy.array(sequence.prompt, numpy.int32), turn)
        return request

    def advance(self, event, live):
        """Passes on what a step made for one sequence."""
        request = event.request
        sequence = live.get(request)
        if sequence is None:
            return
        is_there = True
        if event.flags & genai.EngineEventFlags.TOKEN:
            is_there = sequence.add([event.token])
        if event.flags & genai.EngineEventFlags.FAILED:
            sequence.fail(f"the engine failed: {event.error_code.name}")
        elif event.flags & genai.EngineEventFlags.TURN_FINISHED or not is_there:
            sequence.finish()
        else:
            return
        del live[request]
        request.close()


if __name__ == "__main__":
    main()
