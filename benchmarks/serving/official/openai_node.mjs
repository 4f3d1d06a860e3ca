// The official openai client in JavaScript: chat, streams, responses, structured output, errors. Facts on standard input.
import assert from "node:assert/strict";
import dns from "node:dns";
import { readFileSync } from "node:fs";
import OpenAI from "openai";

// No name is looked up but this machine's: the checks run without a network, and fail where the client wants one.
dns.lookup = (host) => { throw new Error(`${host} was looked up`); };

const facts = JSON.parse(readFileSync(0, "utf8"));
const client = new OpenAI({ baseURL: facts.url, apiKey: "none", timeout: 120_000 });
const { model } = facts;
const messages = [{
  role: "user",
  content: [
    { type: "image_url", image_url: { url: facts.picture, detail: "low" } },
    { type: "text", text: facts.question },
  ],
}];
const input = [{
  role: "user",
  content: [
    { type: "input_image", image_url: facts.picture, detail: "low" },
    { type: "input_text", text: facts.question },
  ],
}];
const schema = {
  type: "object", properties: { n: { enum: [1, 2] } }, required: ["n"], additionalProperties: false,
};

const models = [];
for await (const one of client.models.list()) models.push(one.id);
assert.deepEqual(models, [model]);

const whole = await client.chat.completions.create({ model, messages });
assert.equal(whole.choices[0].message.content, facts.answer);
assert.equal(whole.choices[0].finish_reason, "stop");
assert.match(whole._request_id, /^req_/);
let text = "", last;
const stream = await client.chat.completions.create({ model, messages, stream: true, stream_options: { include_usage: true } });
for await (const piece of stream) {
  text += piece.choices[0]?.delta?.content ?? "";
  last = piece;
}
assert.equal(text, facts.answer);
assert.equal(last.usage.completion_tokens, whole.usage.completion_tokens);
const shaped = await client.chat.completions.parse({
  model, messages, response_format: { type: "json_schema", json_schema: { name: "x", schema, strict: true } },
});
assert.ok([1, 2].includes(JSON.parse(shaped.choices[0].message.content).n));

const response = await client.responses.create({ model, input });
assert.equal(response.output_text, facts.answer);
assert.equal(response.status, "completed");
const kinds = [];
text = "";
for await (const event of await client.responses.create({ model, input, stream: true })) {
  kinds.push(event.type);
  if (event.type === "response.output_text.delta") text += event.delta;
}
assert.equal(text, facts.answer);
assert.deepEqual([kinds[0], kinds.at(-1)], ["response.created", "response.completed"]);
const built = await client.responses.stream({ model, input }).finalResponse();
assert.equal(built.output_text, facts.answer);
const structured = await client.responses.parse({
  model, input, text: { format: { type: "json_schema", name: "x", schema, strict: true } },
});
assert.ok([1, 2].includes(structured.output_parsed.n));

await assert.rejects(client.chat.completions.create({ model: "gone", messages }), { status: 404, code: "model_not_found" });
await assert.rejects(client.responses.create({ model, input, tools: [{ type: "web_search" }] }), { status: 400, param: "tools[0].type" });
