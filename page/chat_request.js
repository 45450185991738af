// From the form and the conversation to POST /v1/chat/completions, and from its stream to one turn.

import { streamed } from "./generate.js";
import { addSampling, withSeed } from "./settings.js";

const NUMBERS = [
  "max_tokens",
  "temperature",
  "top_p",
  "top_k",
  "min_p",
  "presence_penalty",
  "frequency_penalty",
  "repetition_penalty",
];
const ALTERNATIVES = 5;

/** JSON text. Fields left empty are left out, and have the server's defaults. */
export function chatBody(form, messages) {
  const typed = new FormData(form);
  const body = { messages, stream: true, stream_options: { include_usage: true } };
  body.logprobs = true;
  body.top_logprobs = ALTERNATIVES;
  addSampling(body, typed, NUMBERS);
  if (typed.get("tools").trim() !== "") body.tools = JSON.parse(typed.get("tools"));
  return withSeed(JSON.stringify(body), typed.get("seed").trim());
}

/**
 * The stream of an answer. `turn` grows as it comes; `heard` is called after each chunk with the tokens in it, and
 * returned are the reason why the answer ended and the usage.
 */
export async function answer(turn, body, request, heard) {
  let reason = null;
  let usage = null;
  for await (const chunk of streamed("v1/chat/completions", body, request)) {
    if (chunk.error) throw new StreamError(chunk.error.message);
    usage = chunk.usage ?? usage;
    for (const choice of chunk.choices) {
      take(turn, choice.delta);
      reason = choice.finish_reason ?? reason;
      heard(choice.logprobs?.content ?? []);
    }
  }
  return { reason, usage };
}

/** An error that came inside the stream, when a status code could no longer be sent. */
export class StreamError extends Error {}

function take(turn, { content, reasoning_content: reasoning, tool_calls: calls }) {
  if (content) turn.content += content;
  if (reasoning) turn.reasoning = (turn.reasoning ?? "") + reasoning;
  for (const { index, ...call } of calls ?? []) {
    turn.tool_calls ??= [];
    const known = turn.tool_calls[index];
    if (known === undefined) turn.tool_calls[index] = { ...call, function: { arguments: "", ...call.function } };
    else known.function.arguments += call.function.arguments ?? "";
  }
}
