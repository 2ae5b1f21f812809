// OpenAI's own client, unchanged, against a running node: RUNG_URL is its loopback address, RUNG_KEY a key for it,
// RUNG_SOCKET its Unix socket. Its models (scripted): `good`, `slow` (one word in 50 ms), `breaks` after two words,
// `dead` before the first. test_openai_client.py starts all that; each test runs against both fronts.
import assert from 'node:assert/strict';
import http from 'node:http';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import OpenAI from 'openai';

const { RUNG_URL, RUNG_KEY, RUNG_SOCKET } = process.env;

// fetch() over a Unix socket, as much of it as the client asks for.
function socketFetch(url, init) {
  const { pathname, search } = new URL(url);
  return new Promise((resolve, reject) => {
    const headers = Object.fromEntries(new Headers(init.headers));
    const request = http.request(
      { socketPath: RUNG_SOCKET, path: pathname + search, method: init.method, headers, signal: init.signal },
      (message) => {
        const pairs = Object.entries(message.headers).map(([name, value]) => [name, String(value)]);
        resolve(new Response(Readable.toWeb(message), { status: message.statusCode, headers: pairs }));
      });
    request.on('error', reject);
    request.end(init.body);
  });
}

const fronts = {
  tcp: (more) => new OpenAI({ baseURL: `${RUNG_URL}/v1`, apiKey: RUNG_KEY, ...more }),
  unix: (more) => new OpenAI({ baseURL: 'http://localhost/v1', apiKey: 'unused', fetch: socketFetch, ...more }),
};
const messages = [{ role: 'user', content: 'What is 17 + 25?' }];

async function requestsSeen() {
  const text = await (await socketFetch('http://localhost/metrics', { method: 'GET' })).text();
  return Number(/^rung_http_requests_total (\d+)/m.exec(text)[1]) - 1; // less this one
}

async function runningSeen() {
  const text = await (await socketFetch('http://localhost/metrics', { method: 'GET' })).text();
  return Number(/^rung_requests_running (\d+)/m.exec(text)[1]);
}

for (const [front, client] of Object.entries(fronts)) {
  test(`${front}: a chat`, async () => {
    const { data, response, request_id: id } =
      await client().chat.completions.create({ model: 'good', messages }).withResponse();
    assert.equal(data.choices[0].message.content, 'hello from the ladder');
    assert.equal(data.choices[0].message.role, 'assistant');
    assert.equal(data.choices[0].finish_reason, 'stop');
    assert.equal(data.object, 'chat.completion');
    assert.equal(data.usage.total_tokens, data.usage.prompt_tokens + data.usage.completion_tokens);
    assert.equal(data.model, 'good');
    assert.ok(id);
    assert.equal(response.headers.get('x-rung-tier'), 'edge');
    assert.equal(response.headers.get('x-rung-backend'), 'good');
    assert.equal(data.rung.tier, 'edge');
  });

  test(`${front}: a streamed chat`, async () => {
    const stream = await client().chat.completions.create(
      { model: 'good', messages, stream: true, stream_options: { include_usage: true } });
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
    assert.equal(chunks[0].choices[0].delta.role, 'assistant');
    assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join(''), 'hello from the ladder');
    assert.equal(chunks.at(-2).choices[0].finish_reason, 'stop');
    assert.deepEqual(chunks.at(-1).choices, []);
    assert.equal(chunks.at(-1).usage.completion_tokens, 4);
    assert.equal(chunks.at(-1).rung.backend, 'good');
  });

  test(`${front}: the client's own gathering of a stream`, async () => {
    const runner = client().chat.completions.stream({ model: 'good', messages });
    const final = await runner.finalChatCompletion();
    assert.equal(final.choices[0].message.content, 'hello from the ladder');
  });

  test(`${front}: a completion`, async () => {
    const completion = await client().completions.create({ model: 'good', prompt: 'Say: ', echo: true });
    assert.equal(completion.choices[0].text, 'Say: hello from the ladder');
    assert.equal(completion.object, 'text_completion');
    let text = '';
    for await (const chunk of await client().completions.create({ model: 'good', prompt: 'x', stream: true }))
      text += chunk.choices[0].text;
    assert.equal(text, 'hello from the ladder');
  });

  test(`${front}: models`, async () => {
    const names = [];
    for await (const model of client().models.list()) names.push(model.id);
    assert.ok(names.includes('auto') && names.includes('good'), names.join());
    assert.equal((await client().models.retrieve('good')).id, 'good');
    await assert.rejects(client().models.retrieve('nobody'), OpenAI.NotFoundError);
  });

  test(`${front}: errors have their class, and name the field`, async () => {
    await assert.rejects(client().chat.completions.create({ model: 'good', messages, temperature: 9 }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.equal(error.param, 'temperature');
      assert.equal(error.type, 'invalid_request_error');
      return true;
    });
    await assert.rejects(client().chat.completions.create({ model: 'nobody', messages }), (error) => {
      assert.ok(error instanceof OpenAI.NotFoundError);
      assert.equal(error.code, 'model_not_found');
      return true;
    });
    const long = [{ role: 'user', content: 'x'.repeat(5 << 20) }];
    await assert.rejects(client({ maxRetries: 0 }).chat.completions.create({ model: 'good', messages: long }), (error) => {
      assert.equal(error.status, 413);
      return true;
    });
  });

  test(`${front}: what our fallbacks could not save is asked once`, async () => {
    const before = await requestsSeen();
    await assert.rejects(client({ maxRetries: 2 }).chat.completions.create({ model: 'dead', messages }), (error) => {
      assert.ok(error.status >= 500, `status ${error.status}`);
      assert.equal(error.headers.get('x-should-retry'), 'false');
      return true;
    });
    assert.equal(await requestsSeen() - before, 2); // that one, and the first look at the count
  });

  test(`${front}: a stream that breaks is an error, not an end`, async () => {
    const seen = [];
    await assert.rejects(async () => {
      const stream = await client().chat.completions.create({ model: 'breaks', messages, stream: true });
      for await (const chunk of stream) seen.push(chunk.choices[0]);
    }, OpenAI.APIError);
    assert.equal(seen.map((choice) => choice.delta.content ?? '').join('').trim().split(' ').length, 2);
    assert.ok(seen.every((choice) => choice.finish_reason !== 'stop'));
  });

  test(`${front}: a second try with the same idempotency key is the same answer`, async () => {
    const headers = { 'Idempotency-Key': `try-${front}` };
    const ask = (content) => client().chat.completions.create({ model: 'good', messages: [{ role: 'user', content }] }, { headers });
    const first = await ask('one');
    assert.deepEqual(await ask('one'), first);
    await assert.rejects(ask('two'), (error) => {
      assert.ok(error instanceof OpenAI.UnprocessableEntityError);
      assert.equal(error.code, 'idempotency_key_reused');
      return true;
    });
  });

  test(`${front}: leaving a stream stops the work`, async () => {
    const stream = await client().chat.completions.create({ model: 'slow', messages, stream: true });
    for await (const chunk of stream) {
      if (chunk.choices[0].delta.content) break; // the client closes its connection
    }
    while (await runningSeen() > 0); // the test runner's own limit ends this when it must
  });
}

test('tcp: a wrong key', async () => {
  await assert.rejects(fronts.tcp({ apiKey: 'wrong-key-here' }).models.list(), OpenAI.AuthenticationError);
});
