// Opens a session and steps it, one step a call and on a stream; prints what it got as JSON.
// usage: node client.js TARGET MODEL < inputs.json
"use strict";

const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const PATIENCE = 240000; // ms
const [target, model] = process.argv.slice(2);
const inputs = JSON.parse(require("node:fs").readFileSync(0, "utf8")); // [T][D]

const root = path.join(__dirname, "..", "..", "..", "proto");
const definition = loader.loadSync(
  ["session_service", "inference_service"].map((name) => `carousel/v1/${name}.proto`),
  { includeDirs: [root], keepCase: true, longs: String, enums: String, defaults: true, oneofs: true },
);
const { carousel } = grpc.loadPackageDefinition(definition);
const credentials = grpc.credentials.createInsecure();
const sessions = new carousel.v1.SessionService(target, credentials);
const inference = new carousel.v1.InferenceService(target, credentials);

const call = (client, method, request) =>
  new Promise((resolve, reject) =>
    client[method](request, { deadline: Date.now() + PATIENCE }, (error, response) =>
      error ? reject(error) : resolve(response),
    ),
  );

function message(handle, index) {
  const row = Float32Array.from(inputs[index]);
  return {
    handles: [handle],
    step_indexes: [index],
    inputs: {
      data_type: "DATA_TYPE_FLOAT32",
      shape: [1, row.length],
      data: Buffer.from(row.buffer),
    },
  };
}

function numbers(tensor) {
  const bytes = tensor.data;
  const copy = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
  return Array.from(new Float32Array(copy));
}

async function unary() {
  const session = await call(sessions, "CreateSession", { model });
  const outputs = [];
  for (let index = 0; index < inputs.length; index++) {
    const reply = await call(inference, "Step", message(session.handle, index));
    outputs.push(numbers(reply.outputs));
  }
  await call(sessions, "DeleteSession", { name: session.name });
  return outputs;
}

async function stream() {
  const session = await call(sessions, "CreateSession", { model });
  const outputs = []; // by step index: answers come in no order
  await new Promise((resolve, reject) => {
    const steps = inference.StreamSteps({ deadline: Date.now() + PATIENCE });
    steps.on("data", ({ step }) => {
      const values = numbers(step.outputs);
      const size = values.length / step.step_indexes.length;
      step.step_indexes.forEach((index, item) => {
        outputs[index] = values.slice(item * size, (item + 1) * size);
      });
    });
    steps.on("error", reject);
    steps.on("end", resolve);
    inputs.forEach((_, index) => steps.write({ step: message(session.handle, index) }));
    steps.end();
  });
  return [].concat(...outputs);
}

async function refused() {
  try {
    await call(sessions, "CreateSession", { model: "models/no-such-model" });
  } catch (error) {
    return { code: error.code, details: error.details };
  }
  return null;
}

(async () => {
  const result = { unary: await unary(), stream: await stream(), refused: await refused() };
  process.stdout.write(JSON.stringify(result));
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
