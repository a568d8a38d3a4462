// The yardstick of the drain bench: Apache Pulsar's official Go client, its plain producer with batching, sending the
// same events (payload, key, properties) to the same topic as Tidegate drains to.
//
// usage: official-client -service pulsar://127.0.0.1:6650 -topic persistent://tidegate/telemetry/bench -events 1000000 -bytes 256
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/pulsar-client-go/pulsar"
	plog "github.com/apache/pulsar-client-go/pulsar/log"
	"github.com/sirupsen/logrus"
)

func main() {
	service := flag.String("service", "pulsar://127.0.0.1:6650", "service URL")
	topic := flag.String("topic", "persistent://tidegate/telemetry/telemetry", "topic")
	events := flag.Int("events", 1_000_000, "events")
	size := flag.Int("bytes", 256, "bytes of payload")
	devices := flag.Int("devices", 50, "keys")
	properties := flag.Bool("properties", true, "send the properties that Tidegate sends")
	flag.Parse()

	quiet := logrus.New()
	quiet.SetLevel(logrus.ErrorLevel)
	client, err := pulsar.NewClient(pulsar.ClientOptions{URL: *service, Logger: plog.NewLoggerWithLogrus(quiet)})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	producer, err := client.CreateProducer(pulsar.ProducerOptions{
		Topic:                   *topic,
		Name:                    "official-" + strconv.FormatInt(time.Now().UnixNano(), 36),
		BatchingMaxMessages:     1000,
		BatchingMaxSize:         128 * 1024,
		BatchingMaxPublishDelay: 5 * time.Millisecond,
		MaxPendingMessages:      50_000,
		BatcherBuilderType:      pulsar.DefaultBatchBuilder,
	})
	if err != nil {
		log.Fatal(err)
	}
	payload := make([]byte, *size)
	for i := range payload {
		payload[i] = 'x'
	}
	keys := make([]string, *devices)
	for i := range keys {
		keys[i] = fmt.Sprintf("device-%03d", i)
	}
	var failed atomic.Int64
	var wait sync.WaitGroup
	wait.Add(*events)
	start := time.Now()
	for i := 0; i < *events; i++ {
		key := keys[i%*devices]
		message := &pulsar.ProducerMessage{Payload: payload, Key: key, EventTime: start}
		if *properties {
			message.Properties = map[string]string{
				"ce_specversion": "1.0",
				"ce_id":          key + "-" + strconv.Itoa(i),
				"ce_source":      "/devices/" + key,
				"ce_type":        "reading",
				"ce_subject":     key,
				"ce_time":        "2026-11-23T06:00:00.000Z",
				"content-type":   "application/json",
				"tg_stream":      "bench.0123456789abcdef.telemetry",
				"tg_seq":         strconv.Itoa(i + 1),
				"tg_late":        "1",
			}
		}
		producer.SendAsync(context.Background(), message, func(_ pulsar.MessageID, _ *pulsar.ProducerMessage, err error) {
			if err != nil {
				failed.Add(1)
			}
			wait.Done()
		})
	}
	if err := producer.FlushWithCtx(context.Background()); err != nil {
		log.Fatal(err)
	}
	wait.Wait()
	elapsed := time.Since(start).Seconds()
	if failed.Load() > 0 {
		log.Fatalf("%d events failed", failed.Load())
	}
	fmt.Printf("%d events of %d B in %.3f s: %.0f events/s\n", *events, *size, elapsed, float64(*events)/elapsed)
}
