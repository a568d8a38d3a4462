// MQTT.js lives through what a device lives through; the gateway's side is checked by mqttjs.rs.
//
// usage: node mqttjs_story.mjs MODULES URL TAG PROTOCOL(4|5) CA|-

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const [modules, url, tag, protocol, caFile] = process.argv.slice(2)
const mqtt = createRequire(`${modules}/`)('mqtt')
const v5 = protocol === '5'
const ca = caFile === '-' ? undefined : readFileSync(caFile)
const PATIENCE = 30_000 // nothing here takes that long, unless it never ends

/** A promise that does not wait for ever. */
function within (what, promise) {
  let timer
  const late = new Promise((_resolve, reject) => { timer = setTimeout(() => reject(new Error(`no ${what}`)), PATIENCE) })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

/** A client; what it gets waits in `messages`. */
class Device {
  constructor (name, options = {}) {
    this.messages = []
    const properties = v5 ? { sessionExpiryInterval: options.clean === false ? 60 : 0 } : undefined
    this.client = mqtt.connect(url, {
      protocolVersion: Number(protocol), clientId: `${tag}-${name}`, reconnectPeriod: 0, keepalive: 30, ca, properties, ...options
    })
    this.client.on('message', (topic, payload, packet) => {
      this.messages.push([topic, payload.toString(), packet.qos, packet.retain])
      this.woken?.()
    })
  }

  async enter (present = false) {
    const connack = await within('CONNACK', new Promise((resolve, reject) => {
      this.client.once('connect', resolve)
      this.client.once('error', reject)
    }))
    assert.equal(connack.sessionPresent, present)
    this.client.on('error', (e) => { throw e })
    return this
  }

  async subscribe (topic, qos) {
    const granted = await within('SUBACK', this.client.subscribeAsync(topic, { qos }))
    assert.equal(granted[0].qos, qos)
  }

  publish (topic, payload, qos, retain = false) {
    return within('acknowledgement', this.client.publishAsync(`${tag}/${topic}`, payload, { qos, retain }))
  }

  async expect (topic, payload, qos, retain = false) {
    while (this.messages.length === 0) {
      await within('message', new Promise((resolve) => { this.woken = resolve }))
    }
    assert.deepEqual(this.messages.shift(), [`${tag}/${topic}`, payload, qos, retain])
  }

  leave () {
    return within('end', this.client.endAsync())
  }
}

const watcher = await new Device('watcher').enter()
await watcher.subscribe(`${tag}/+/#`, 2)
const publisher = await new Device('publisher').enter()
for (const qos of [0, 1, 2]) {
  await publisher.publish(`qos/${qos}`, String(qos), qos)
  await watcher.expect(`qos/${qos}`, String(qos), qos)
}

await publisher.publish('state/now', 'kept', 1, true)
await watcher.expect('state/now', 'kept', 1)
const late = await new Device('late').enter()
await late.subscribe(`${tag}/state/+`, 1)
await late.expect('state/now', 'kept', 1, true)
await late.leave()

const before = await new Device('absent', { clean: false }).enter()
await before.subscribe(`${tag}/queue/#`, 2)
await before.leave()
// The one with QoS 2 is the last: it counts for the client once it is released, which later ones may overtake.
const waiting = [['queue/x', 'a', 1], ['queue/y/z', 'b', 1], ['queue/x', 'c', 2]]
for (const message of waiting) {
  await publisher.publish(...message)
  await watcher.expect(...message)
}
const after = await new Device('absent', { clean: false }).enter(true)
for (const message of waiting) await after.expect(...message)
await after.leave()

const will = { topic: `${tag}/will/mortal`, payload: Buffer.from('gone'), qos: 1, retain: false }
const mortal = await new Device('mortal', { will }).enter()
mortal.client.stream.destroy()
await watcher.expect('will/mortal', 'gone', 1)

const refused = await new Device('stranger', { username: 'press-7', password: 'wrong' }).enter().catch((e) => e)
assert.equal(refused.code, v5 ? 134 : 4)
assert.match(refused.message, /^Connection refused: Bad user ?name or password$/i)
const known = await new Device('known', { username: 'press-7', password: 'right' }).enter()
await known.publish('known/x', 'mine', 1)
await watcher.expect('known/x', 'mine', 1)
for (const device of [known, publisher, watcher]) await device.leave()
assert.deepEqual(watcher.messages, [])
process.exit(0) // the refused one keeps a timer
