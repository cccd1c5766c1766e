// Package queue is how orders come in and events go out.
//
// A backend is a folder beside this file with a type that is a [Queue]: amqp speaks to RabbitMQ, embedded keeps everything in a log in the
// process or in the store. To write one: give an order to one handler at a time and give it again when the handler's answer did not
// arrive (at least once); never let go of an order except by its verdict; answer a publish only when the message is safe; keep the order of events
// that share a key. Then let queuetest judge it.
//
// Nothing is assumed of a message's content here: orders are parsed and refused by the handler.
package queue
