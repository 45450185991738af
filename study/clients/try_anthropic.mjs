// @anthropic-ai/sdk.

import Anthropic from "@anthropic-ai/sdk";
import { BASE, MODEL, QUESTION, check, expect } from "./checks.mjs";

const client = new Anthropic({ baseURL: BASE, apiKey: "any", maxRetries: 0 });
const messages = [{ role: "user", content: QUESTION }];

await check("messages", async () => {
  const message = await client.messages.create({ model: MODEL, max_tokens: 60, messages });
  expect(message.content[0].text, "a text");
  return message.stop_reason;
});
await check("stream", async () => {
  const message = await client.messages.stream({ model: MODEL, max_tokens: 60, messages }).finalMessage();
  expect(message.content[0].text, "a text");
  return message.stop_reason;
});
