// Sends API calls over HTTP with Orb's own client: node orb_billing.mjs [calls.ndjson]   (npm install)
import { readFileSync } from 'node:fs'
import Orb from 'orb-billing'

const BATCH = 500 // as many events as one request may hold

// The id is the request's own: whoever sends this call again, and whenever, sends the same id.
function eventOf(call) {
  return {
    event_name: 'api_call',
    idempotency_key: call.request_id,
    timestamp: call.at, // when it happened, not when it is sent
    external_customer_id: call.customer,
    properties: { endpoint: call.endpoint, tokens: call.tokens },
  }
}

const path = process.argv[2] ?? new URL('calls.ndjson', import.meta.url)
const calls = readFileSync(path, 'utf8').trim().split('\n').map((line) => JSON.parse(line))

const client = new Orb({
  baseURL: process.env.INGEST_URL ?? 'http://127.0.0.1:6068/v1', // the only change
  apiKey: process.env.INGEST_KEY,
  maxRetries: 8, // of the same request with the same ids, after 408, 409, 429, 5xx and connections that break
  timeout: 30_000,
})

const refused = []
for (let start = 0; start < calls.length; start += BATCH) {
  let events = calls.slice(start, start + BATCH).map(eventOf)
  while (events.length > 0) {
    try {
      // Once this returns, the events are on every in-sync replica of Kafka: now they may be forgotten.
      await client.events.ingest({ events })
      break
    } catch (error) {
      if (!(error instanceof Orb.BadRequestError)) throw error // nothing is known: all of them can be sent again
      const failed = error.error.validation_failed
      if (failed.length === 0) throw error // the request as a whole is wrong, nothing was taken
      // Good ones are named too where others of the request have one id and different bodies: they go again.
      const good = failed.filter((one) => one.validation_errors.at(-1).includes('send it again'))
      const again = new Set(good.map((one) => one.idempotency_key))
      refused.push(...failed.filter((one) => !again.has(one.idempotency_key))) // wrong in themselves
      events = events.filter((event) => again.has(event.idempotency_key))
    }
  }
}
console.log(`${calls.length - refused.length} of ${calls.length} acknowledged`)
if (refused.length > 0) {
  console.error(refused.map((event) => JSON.stringify(event)).join('\n'))
  process.exitCode = 1
}
