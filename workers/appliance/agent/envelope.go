package agent

import (
	"context"
	"crypto/ed25519"
	"fmt"

	"slipway/workers/appliance/apply"
)

// Open carries out a request that came over a broker, and packs its answer into at most room bytes. Whoever asked gets an answer in any
// case; without a signature by one of the keys it is Refused, and nothing of the request was read.
func (a *Agent) Open(ctx context.Context, e apply.Envelope, keys []ed25519.PublicKey, room int) []byte {
	packed, err := apply.Pack(a.open(ctx, e, keys))
	if err == nil && len(packed) > room {
		packed, err = apply.Pack(apply.Answer{Code: apply.Unsupported, Message: fmt.Sprintf("the answer has %d bytes and %d is the most for a broker", len(packed), room)})
	}
	if err != nil { // an answer that is no JSON: there is none
		a.log.Error("pack an answer", "error", err)
	}
	return packed
}

func (a *Agent) open(ctx context.Context, e apply.Envelope, keys []ed25519.PublicKey) apply.Answer {
	if err := e.Verify(keys); err != nil {
		a.log.Warn("a request was refused", "error", err)
		return apply.Answer{Code: apply.Refused, Message: clean(err.Error())}
	}
	text, err := apply.Unpack(e.Body)
	if err != nil {
		return apply.Answer{Code: apply.Refused, Message: clean("request: " + err.Error())}
	}
	req, err := Decode(text)
	if err != nil {
		return apply.Answer{Code: apply.Refused, Message: clean(err.Error())}
	}
	return a.Apply(ctx, req)
}
