"""python -m autoglm [--socket PATH] [--model NAME] [PROMPT]: asks, or tells what there is."""

from __future__ import annotations

import argparse
import sys

import autoglm


def _describe(client: autoglm.Client) -> None:
    status = client.status()
    print(
        f"autoglmd {status.daemon_version}, instance {status.instance}, {status.state.name.lower()}"
    )
    for model in client.models():
        print(
            f"model {model.name} ({model.architecture}), {model.context_tokens} tokens of context"
        )


def _ask(client: autoglm.Client, model: autoglm.Model, prompt: str) -> None:
    tokenizer = autoglm.Tokenizer(model.folder)
    ids = tokenizer.chat([("user", prompt)])
    for text in tokenizer.stream(client.generate(ids, model=model, temperature=0.7)):
        print(text, end="", flush=True)
    print()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m autoglm")
    parser.add_argument("--socket", help="the daemon's socket")
    parser.add_argument("--model", help="which model; the first one by default")
    parser.add_argument("prompt", nargs="?", help="what to ask; without it, tell what is there")
    options = parser.parse_args()
    try:
        with autoglm.Client(options.socket, name="python") as client:
            if options.prompt is None:
                _describe(client)
            else:
                _ask(client, client.model(options.model), options.prompt)
    except autoglm.Error as error:
        print(f"autoglm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
