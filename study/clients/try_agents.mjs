// OpenAI's agents in JavaScript, through responses and through chat completions.

import { Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, run, setTracingDisabled } from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";
import { BASE, MODEL, QUESTION, check, expect } from "./checks.mjs";

setTracingDisabled(true);
const client = new OpenAI({ baseURL: `${BASE}/v1`, apiKey: "any", maxRetries: 0 });
const apis = { responses: OpenAIResponsesModel, "chat completions": OpenAIChatCompletionsModel };
const modelSettings = { temperature: 0 };
const Address = z.object({ street: z.enum(["Elm Street", "Main Street"]) }); // a small model may never end a string

for (const [name, Model] of Object.entries(apis)) {
  const settings = { name: "assistant", model: new Model(client, MODEL), modelSettings };
  await check(`run: ${name}`, async () => {
    const { finalOutput } = await run(new Agent(settings), QUESTION);
    expect(finalOutput, "a text");
    return finalOutput;
  });
  await check(`streamed run: ${name}`, async () => {
    const streamed = await run(new Agent(settings), QUESTION, { stream: true });
    let text = "";
    for await (const piece of streamed.toTextStream()) text += piece;
    await streamed.completed;
    expect(text && text === streamed.finalOutput, `the final text, got ${text}`);
    return text;
  });
  await check(`outputType: ${name}`, async () => {
    const { finalOutput } = await run(new Agent({ ...settings, outputType: Address }), QUESTION);
    return Address.parse(finalOutput).street;
  });
}
