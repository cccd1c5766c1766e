// Package message turns CloudEvents 1.0 in structured JSON into orders, and events into CloudEvents. It is the border: nothing in a
// message is trusted, and what is wrong with an order is said field by field, before anything else happens.
//
// The schemas of package schemas decide about shapes. What a schema cannot say (a key that is a key, a range that ends after it
// begins) is checked here and by orchestrator.Order.Validate. Both speak of fields as the message has them, those in data without "data.".
package message
