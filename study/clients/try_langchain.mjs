// LangChain in JavaScript, through chat completions, responses and messages.

import { ChatAnthropic } from "@langchain/anthropic";
import { ChatOpenAI } from "@langchain/openai";
import { z } from "zod";
import { BASE, MODEL, QUESTION, check, expect } from "./checks.mjs";

const Address = z.object({ street: z.enum(["Elm Street", "Main Street"]) }); // a small model may never end a string
const openai = { model: MODEL, apiKey: "any", temperature: 0, maxRetries: 0, configuration: { baseURL: `${BASE}/v1` } };
const models = {
  "chat completions": new ChatOpenAI(openai),
  responses: new ChatOpenAI({ ...openai, useResponsesApi: true }),
  messages: new ChatAnthropic({ model: MODEL, apiKey: "any", anthropicApiUrl: BASE, maxRetries: 0, maxTokens: 200 }),
};

for (const [name, model] of Object.entries(models)) {
  await check(`invoke: ${name}`, async () => {
    const { text } = await model.invoke(QUESTION);
    expect(text, "a text");
    return text;
  });
  await check(`stream: ${name}`, async () => {
    let text = "";
    for await (const chunk of await model.stream(QUESTION)) text += chunk.text;
    expect(text, "a text");
    return text;
  });
  await check(`structured output: ${name}`, async () => {
    const found = await model.withStructuredOutput(Address, { name: "address" }).invoke(QUESTION);
    return Address.parse(found).street;
  });
}
