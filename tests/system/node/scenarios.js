// The scenarios of scenarios.py, by a client of Connect for ECMAScript, in Node.js or in a browser.

import { Code, ConnectError, decodeBinaryHeader, encodeBinaryHeader } from "@connectrpc/connect";
import { codeToString } from "@connectrpc/connect/protocol-connect";

import { InteropDetailSchema } from "./gen/interop/v1/interop_pb.js";

const METADATA = { "echo-ascii": "one, two", "echo-bin": encodeBinaryHeader(Uint8Array.of(0x00, 0x01, 0xfe, 0xff)) };

// A timeout that never passes, so that each scenario ends by what the server does.
const LONG_MS = 60_000;

// Go through all scenarios but those of `leftOut`, and yield what came of each. `started` takes a key, and waits until
// a handler has got it, by another connection than that of `client`.
export async function* run(client, leftOut, started) {
  for (const [scenario, go] of Object.entries(SCENARIOS)) {
    if (leftOut.includes(scenario)) {
      continue;
    }
    try {
      yield { scenario, result: await go(client, started) };
    } catch (error) {
      yield { scenario, crash: error.stack ?? String(error) };
    }
  }
}

// Each takes a client, and `started` if it needs it, and returns a result.
const SCENARIOS = {
  unary: async (client) => {
    const response = await client.unary({ text: "hello" });
    return { text: response.text };
  },

  unary_get: async (client) => {
    const response = await client.unarySafely({ text: "hello" });
    return { text: response.text };
  },

  client_stream: async (client) => {
    const { text, number } = await client.clientStream(stream({ text: "a" }, { text: "b" }, { text: "c" }));
    return { text, number };
  },

  client_stream_empty: async (client) => {
    const { text, number } = await client.clientStream(stream());
    return { text, number };
  },

  server_stream: async (client) => read(client.serverStream({ text: "x", count: 3 })),

  server_stream_empty: async (client) => read(client.serverStream({ count: 0 })),

  unary_error: async (client) => {
    const failure = { code: "not_found", message: "nothing here: é, 100%", detail: "why" };
    return fail(client.unary({ failure }));
  },

  client_stream_error: async (client) => {
    const failure = { code: "failed_precondition", message: "too late", detail: "why" };
    return fail(client.clientStream(stream({ text: "a" }, { failure })));
  },

  server_stream_error: async (client) => {
    const failure = { code: "resource_exhausted", message: "no more", detail: "why" };
    return read(client.serverStream({ count: 2, failure }));
  },

  unary_metadata: (client) => echoed((options) => client.unary({}, options)),

  client_stream_metadata: (client) => echoed((options) => client.clientStream(stream({}), options)),

  server_stream_metadata: (client) => echoed((options) => read(client.serverStream({ count: 1 }, options))),

  unary_timeout: async (client) => {
    const { code } = await fail(client.unary({ wait: true }, { timeoutMs: 200 }));
    return { code };
  },

  timeout_arrives: async (client) => {
    const { timeoutMs } = await client.unary({}, { timeoutMs: LONG_MS });
    return { timeout_arrived: 0 < timeoutMs && timeoutMs <= LONG_MS };
  },

  client_stream_timeout: async (client) => {
    const { code } = await fail(client.clientStream(endless(), { timeoutMs: 500 }));
    return { code };
  },

  server_stream_timeout: async (client) => {
    const { numbers, code } = await read(client.serverStream({ count: 2, wait: true }, { timeoutMs: 500 }));
    return { numbers, code };
  },

  cancel: async (client) => {
    const key = crypto.randomUUID();
    const cancellation = new AbortController();
    const numbers = [];
    try {
      for await (const { number } of client.serverStream({ count: -1, key }, { signal: cancellation.signal })) {
        numbers.push(number);
        if (numbers.length === 3) {
          cancellation.abort();
          break;
        }
      }
    } catch (error) {
      if (ConnectError.from(error).code !== Code.Canceled) {
        throw error;
      }
    }
    const { outcome } = await client.outcome({ key });
    return { numbers, outcome };
  },

  unary_cancel: async (client, started) => {
    const key = crypto.randomUUID();
    const cancellation = new AbortController();
    const canceled = expectCanceled(client.unary({ wait: true, key }, { signal: cancellation.signal }));
    await started(key);
    cancellation.abort();
    await canceled;
    const { outcome } = await client.outcome({ key });
    return { outcome };
  },

  client_stream_cancel: async (client, started) => {
    const key = crypto.randomUUID();
    const cancellation = new AbortController();
    const canceled = expectCanceled(client.clientStream(endless({ key }), { signal: cancellation.signal }));
    await started(key);
    cancellation.abort();
    await canceled;
    const { outcome } = await client.outcome({ key });
    return { outcome };
  },

  compressed: async (client) => {
    let leading;
    const { text, requestEncoding } = await client.unary(
      { text: "z".repeat(20_000) },
      { onHeader: (headers) => (leading = headers) },
    );
    return {
      size: text.length,
      request_encoding: requestEncoding,
      response_encoding: leading.get("grpc-encoding") ?? leading.get("content-encoding"),
    };
  },

  bidi: async (client) => {
    const { code } = await read(client.bidiStream(stream({ text: "a" })));
    return { code };
  },
};

async function* stream(...messages) {
  yield* messages;
}

// Give messages for as long as they are wanted.
async function* endless(message = {}) {
  for (;;) {
    yield message;
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

async function expectCanceled(call) {
  const { code, message } = await fail(call);
  if (code !== "canceled") {
    throw new Error(`the call was not canceled, but failed: ${code}: ${message}`);
  }
}

// Return what a stream gave, and how it failed if it did.
async function read(responses) {
  const texts = [];
  const numbers = [];
  try {
    for await (const response of responses) {
      texts.push(response.text);
      numbers.push(response.number);
    }
  } catch (error) {
    return { texts, numbers, ...describe(error) };
  }
  return { texts, numbers };
}

// Return how a call failed.
async function fail(call) {
  try {
    await call;
  } catch (error) {
    return describe(error);
  }
  throw new Error("the call did not fail");
}

function describe(error) {
  if (!(error instanceof ConnectError)) {
    throw error;
  }
  return {
    code: codeToString(error.code),
    message: error.rawMessage,
    details: error.findDetails(InteropDetailSchema).map((detail) => detail.reason),
  };
}

// Return the metadata that came back of a call.
async function echoed(call) {
  let leading;
  let trailing;
  await call({
    headers: METADATA,
    onHeader: (headers) => (leading = headers),
    onTrailer: (trailers) => (trailing = trailers),
  });
  return {
    ascii: leading.get("echo-ascii"),
    trailer: trailing.get("echo-trailer"),
    bin: hex(leading.get("echo-bin")),
    trailer_bin: hex(trailing.get("echo-trailer-bin")),
  };
}

function hex(value) {
  return [...decodeBinaryHeader(value)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
