// The Vercel AI SDK, through three of its providers.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, streamText } from "ai";
import { z } from "zod";
import { BASE, MODEL, QUESTION, check, expect } from "./checks.mjs";

const settings = { baseURL: `${BASE}/v1`, apiKey: "any" };
const compatible = createOpenAICompatible({ ...settings, name: "here", supportsStructuredOutputs: true });
const models = {
  "openai-compatible": compatible(MODEL),
  "openai, responses": createOpenAI(settings)(MODEL),
  anthropic: createAnthropic(settings)(MODEL),
};

for (const [name, model] of Object.entries(models)) {
  await check(`generateText: ${name}`, async () => {
    const { text } = await generateText({ model, prompt: QUESTION, maxRetries: 0 });
    expect(text, "a text");
    return text;
  });
  await check(`streamText: ${name}`, async () => {
    const text = await streamText({ model, prompt: QUESTION, maxRetries: 0 }).text;
    expect(text, "a text");
    return text;
  });
  await check(`a second turn: ${name}`, async () => {
    const asked = { role: "user", content: QUESTION };
    const { response } = await generateText({ model, messages: [asked], maxRetries: 0 });
    const messages = [asked, ...response.messages, { role: "user", content: "And then?" }];
    const { text } = await generateText({ model, messages, maxRetries: 0 });
    expect(text, "a text");
    return text;
  });
}
await check("generateObject: openai-compatible", async () => {
  const schema = z.object({ street: z.string().max(20), number: z.number().int() });
  const { object } = await generateObject({ model: models["openai-compatible"], schema, prompt: QUESTION, maxRetries: 0 });
  return JSON.stringify(object);
});
