package apply

import (
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Envelope is a request on a way that others share. Whoever can put a message there could ask an agent for anything, with the rights of
// root; so an agent takes only what is signed with a key that it knows. The signature covers whom it is for, the exchange and the body:
// it cannot be sent to another agent. Sent again it is refused or changes nothing, by its fence and generation.
type Envelope struct {
	Agent     string // whom it is for
	ID        string // of the exchange
	Body      []byte // a packed Request
	Signature []byte // Ed25519
}

// Seal packs and signs a request.
func Seal(agent, id string, req Request, key ed25519.PrivateKey) (Envelope, error) {
	body, err := Pack(req)
	if err != nil {
		return Envelope{}, err
	}
	e := Envelope{Agent: agent, ID: id, Body: body}
	e.Signature = ed25519.Sign(key, e.signed())
	return e, nil
}

// ErrUnsigned is an envelope that nobody has signed who may.
var ErrUnsigned = errors.New("the request is not signed with a key that this agent knows")

// Verify is nil when one of the keys has signed the envelope.
func (e Envelope) Verify(keys []ed25519.PublicKey) error {
	for _, key := range keys {
		if ed25519.Verify(key, e.signed(), e.Signature) {
			return nil
		}
	}
	return ErrUnsigned
}

// signed is what the signature is of. It begins with its purpose: a key of an SSH account may be the same one.
func (e Envelope) signed() []byte {
	var b bytes.Buffer
	b.WriteString("slipway agent request 1\n")
	for _, s := range []string{e.Agent, e.ID} {
		fmt.Fprintf(&b, "%d:%s\n", len(s), s)
	}
	sum := sha256.Sum256(e.Body)
	b.Write(sum[:])
	return b.Bytes()
}

// Pack is compressed JSON: rules and host blocks repeat themselves.
func Pack(v any) ([]byte, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if err := errors.Join(json.NewEncoder(w).Encode(v), w.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Unpack gives back the JSON, which may be any number of times longer than what was packed: its reader bounds it.
func Unpack(body []byte) (io.Reader, error) {
	r, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("not packed: %w", err)
	}
	return r, nil
}
