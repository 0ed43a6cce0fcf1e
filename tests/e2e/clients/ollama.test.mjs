// ollama-js through every method that needs no cloud; run by test_clients_js.py with `node --test`.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Ollama } from 'ollama'

const host = process.env.OLLAMA_HOST
const ollama = new Ollama({ host })
const model = 'smollm2:135m'
const messages = [{ role: 'user', content: 'What is the capital of France? Answer in one word.' }]
const greedy = { temperature: 0, num_predict: 40 }
const add = {
  type: 'function',
  function: {
    name: 'add',
    description: 'Add two numbers',
    parameters: {
      type: 'object',
      required: ['a', 'b'],
      properties: { a: { type: 'number', description: 'first' }, b: { type: 'number', description: 'second' } },
    },
  },
}

async function all(stream) {
  const parts = []
  for await (const part of await stream) parts.push(part)
  return parts
}

test('chat', async () => {
  const answer = await ollama.chat({ model, messages, options: greedy })
  assert.match(answer.message.content, /Paris/)
  assert.ok(answer.done)
})

test('chat streams', async () => {
  const parts = await all(ollama.chat({ model, messages, options: greedy, stream: true }))
  assert.match(parts.map((part) => part.message.content).join(''), /Paris/)
  assert.equal(parts.at(-1).done_reason, 'stop')
})

test('generate streams', async () => {
  const parts = await all(ollama.generate({ model: 'echo', prompt: 'a', stream: true, options: { num_predict: 4 } }))
  assert.equal(parts.map((part) => part.response).join(''), 'w0 w1 w2 w3')
})

test('structured output', async () => {
  const format = { type: 'object', properties: { capital: { enum: ['Paris', 'Rome'] } }, required: ['capital'] }
  const answer = await ollama.chat({ model, messages, format, options: greedy })
  assert.deepEqual(JSON.parse(answer.message.content), { capital: 'Paris' })
})

test('logprobs', async () => {
  const options = { num_predict: 3 }
  const answer = await ollama.generate({ model, prompt: 'Hi', logprobs: true, top_logprobs: 2, options })
  assert.equal(answer.logprobs.length, 3)
  assert.equal(answer.logprobs[0].top_logprobs.length, 2)
})

test('a tool is called', async () => {
  const answer = await ollama.chat({ model: 'echo-tools', messages, tools: [add] })
  assert.equal(answer.message.tool_calls[0].function.name, 'add')
  assert.deepEqual(Object.keys(answer.message.tool_calls[0].function.arguments), ['a', 'b'])
  const result = { role: 'tool', tool_name: 'add', content: '3' }
  const final = await ollama.chat({ model: 'echo', messages: [...messages, answer.message, result], tools: [add] })
  assert.ok(final.done)
})

test('thinking comes apart from content', async () => {
  const answer = await ollama.chat({ model: 'echo-think', messages, think: true })
  assert.ok(answer.message.thinking)
  assert.ok(answer.message.content)
})

test('embed', async () => {
  const answer = await ollama.embed({ model: 'all-minilm', input: ['a cat', 'a dog'] })
  assert.deepEqual(answer.embeddings.map((vector) => vector.length), [384, 384])
  assert.equal((await ollama.embeddings({ model: 'all-minilm', prompt: 'a cat' })).embedding.length, 384)
})

test('list, show, ps, version', async () => {
  assert.ok((await ollama.list()).models.some((listed) => listed.model === model))
  assert.equal((await ollama.show({ model })).model_info['general.architecture'], 'llama')
  await ollama.generate({ model, prompt: '', keep_alive: 0 }) // it may be there under the name of a copy
  await ollama.generate({ model, prompt: '' })
  assert.ok((await ollama.ps()).models.some((loaded) => loaded.model === model))
  assert.match((await ollama.version()).version, /^\d+\.\d+\.\d+$/)
})

test('create, copy, delete', async () => {
  const parts = await all(ollama.create({ model: 'js-mario', from: model, system: 'You are Mario.', stream: true }))
  assert.equal(parts.at(-1).status, 'success')
  assert.equal((await ollama.copy({ source: 'js-mario', destination: 'js-luigi' })).status, 'success')
  assert.equal((await ollama.show({ model: 'js-luigi' })).system, 'You are Mario.')
  for (const made of ['js-mario', 'js-luigi']) assert.equal((await ollama.delete({ model: made })).status, 'success')
  await assert.rejects(ollama.show({ model: 'js-mario' }), /model 'js-mario:latest' not found/)
})

test('push and pull', async () => {
  const name = `${new URL(host).host}/js/pushed`
  await ollama.copy({ source: model, destination: name })
  const pushed = await all(ollama.push({ model: `http://${name}`, insecure: true, stream: true }))
  assert.equal(pushed.at(-1).status, 'success')
  await ollama.delete({ model: name })
  const pulled = await all(ollama.pull({ model: `http://${name}`, insecure: true, stream: true }))
  assert.equal(pulled[0].status, 'pulling manifest')
  assert.equal(pulled.at(-1).status, 'success')
  for (const made of [name, 'js/pushed']) await ollama.delete({ model: made })
})

test('abort ends the stream', async () => {
  const own = new Ollama({ host })
  const stream = await own.generate({ model: 'echo-20', prompt: 'a', stream: true, options: { num_predict: 2000 } })
  await assert.rejects(
    async () => {
      for await (const part of stream) if (part.response) own.abort()
    },
    { name: 'AbortError' },
  )
})

test('errors carry the status and the words', async () => {
  await assert.rejects(ollama.chat({ model: 'nothing', messages }), {
    name: 'ResponseError',
    status_code: 404,
    message: "model 'nothing' not found",
  })
})
