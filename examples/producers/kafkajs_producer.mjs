// Sends API calls to Kafka with KafkaJS: node kafkajs_producer.mjs [calls.ndjson]   (npm install)
import { readFileSync } from 'node:fs'
import { CompressionTypes, Kafka, logLevel, Partitioners } from 'kafkajs'

const servers = (process.env.KAFKA_BOOTSTRAP_SERVERS ?? '127.0.0.1:9092').split(',')
const idempotent = (process.env.KAFKA_IDEMPOTENCE ?? 'on') === 'on' // off only for a broker that has none: the embedded one
const TOPIC = 'api-calls'
const BATCH = 1000 // KafkaJS has no linger: what goes out together is what one `send` is given

// The id is the request's own: whoever sends this call again, and whenever, sends the same id.
function eventOf(call) {
  return JSON.stringify({
    event_name: 'api_call',
    idempotency_key: call.request_id,
    timestamp: call.at, // when it happened, not when it is sent
    external_customer_id: call.customer,
    properties: { endpoint: call.endpoint, tokens: call.tokens },
  })
}

const path = process.argv[2] ?? new URL('calls.ndjson', import.meta.url)
const calls = readFileSync(path, 'utf8').trim().split('\n').map((line) => JSON.parse(line))

const kafka = new Kafka({ clientId: 'api', brokers: servers, logLevel: logLevel.ERROR })
const producer = kafka.producer({
  idempotent, // what the client itself sends again is written once
  maxInFlightRequests: 1, // with more, KafkaJS can send batches out of order, which an idempotent producer may not
  createPartitioner: Partitioners.DefaultPartitioner,
  retry: { retries: idempotent ? Number.MAX_SAFE_INTEGER : 10 }, // an idempotent one must not give up within a batch
})

await producer.connect()
let acknowledged = 0
try {
  for (let start = 0; start < calls.length; start += BATCH) {
    const batch = calls.slice(start, start + BATCH)
    await producer.send({
      topic: TOPIC,
      acks: -1, // an acknowledgement means: on every in-sync replica
      compression: CompressionTypes.GZIP,
      // No key: events spread over all partitions. The engine needs no order, and a big customer makes no hot one.
      messages: batch.map((call) => ({ value: eventOf(call) })),
    }) // forget nothing before this has returned
    acknowledged += batch.length
  }
} catch (error) {
  console.error(`${error}. Run it again: what is there already counts once.`)
  process.exitCode = 1
} finally {
  console.log(`${acknowledged} of ${calls.length} acknowledged`)
  await producer.disconnect()
}
