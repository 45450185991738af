// openai-node.

import OpenAI from "openai";
import { BASE, MODEL, QUESTION, check, expect } from "./checks.mjs";

const client = new OpenAI({ baseURL: `${BASE}/v1`, apiKey: "any", maxRetries: 0 });
const messages = [{ role: "user", content: QUESTION }];

await check("chat", async () => {
  const answer = await client.chat.completions.create({ model: MODEL, messages, temperature: 0 });
  expect(answer.choices[0].message.content, "a text");
  return answer.choices[0].message.content;
});
await check("stream helper", async () => {
  const stream = client.chat.completions.stream({ model: MODEL, messages, temperature: 0 });
  const final = await stream.finalContent();
  expect(final, "a text");
  return final;
});
await check("a response in the background, its stream taken up again", async () => {
  const asked = await client.responses.create({ model: MODEL, input: QUESTION, background: true, stream: true });
  let id;
  for await (const event of asked) {
    id = event.response.id;
    break;
  }
  const final = await client.responses.stream({ response_id: id }).finalResponse();
  expect(final.output_text, "a text");
  return final.output_text;
});
await check("responses, streamed", async () => {
  let text = "";
  for await (const event of await client.responses.create({ model: MODEL, input: QUESTION, stream: true })) {
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  expect(text, "a text");
  return text;
});
