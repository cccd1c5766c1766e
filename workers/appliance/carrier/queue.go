package carrier

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/ssh"

	"slipway/orchestrator"
	"slipway/workers/appliance/apply"
	"slipway/workers/queue/amqp"
)

// HeaderSignature carries an envelope's signature, base64.
const HeaderSignature = "slipway-signature"

// Broker brings a request to an agent's queue and its answer back. *amqp.Requester is one.
type Broker interface {
	Ask(ctx context.Context, to string, m amqp.Request) (answer []byte, err error)
}

// QueueConfig is one appliance whose agent listens on the broker (`slipway agent serve`).
type QueueConfig struct {
	Broker  Broker
	Agent   string              // its name, as its own configuration says
	Key     orchestrator.Secret // private Ed25519 key as OpenSSH writes it, without a passphrase; the agent knows its public half
	Timeout time.Duration       // of one apply; 0 is 3 min
}

// Queue is an agent behind a broker. The broker carries and decides nothing: what it can read it cannot change.
type Queue struct {
	cfg QueueConfig
	key ed25519.PrivateKey
}

// NewQueue checks the configuration. It does not connect.
func NewQueue(cfg QueueConfig) (*Queue, error) {
	if cfg.Agent == "" {
		return nil, errors.New("agent: needed")
	}
	parsed, err := ssh.ParseRawPrivateKey([]byte(cfg.Key.Reveal()))
	if err != nil {
		return nil, fmt.Errorf("key: a private key as OpenSSH writes it, without a passphrase, is needed: %w", err)
	}
	key, ok := parsed.(*ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("key: not of type ed25519; make one with `ssh-keygen -t ed25519 -N ''`")
	}
	cfg.Key = orchestrator.Secret{}
	return &Queue{cfg: cfg, key: *key}, nil
}

// Apply signs the request, publishes it and waits for the answer.
func (q *Queue) Apply(ctx context.Context, req apply.Request) (apply.Answer, error) {
	const op = "carrier.Queue"
	envelope, err := apply.Seal(q.cfg.Agent, uuid.NewString(), req, q.key)
	if err != nil {
		return apply.Answer{}, orchestrator.E(op, orchestrator.Permanent, err)
	}
	ctx, cancel := withTimeout(ctx, q.cfg.Timeout)
	defer cancel()
	body, err := q.cfg.Broker.Ask(ctx, amqp.AgentQueue(q.cfg.Agent), amqp.Request{
		ID: envelope.ID, Body: envelope.Body, Headers: map[string]string{HeaderSignature: base64.StdEncoding.EncodeToString(envelope.Signature)},
	})
	if err != nil {
		return apply.Answer{}, orchestrator.E(op, orchestrator.KindOf(err), err)
	}
	text, err := apply.Unpack(body)
	if err != nil {
		return apply.Answer{}, orchestrator.Errorf(op, orchestrator.Unknown, "agent %s: %w: %w", q.cfg.Agent, errNoAnswer, err)
	}
	answer, err := readAnswer(text, room(req))
	if err != nil {
		return apply.Answer{}, orchestrator.Errorf(op, orchestrator.Unknown, "agent %s: %w", q.cfg.Agent, err)
	}
	return answer, nil
}

// Listen is the far side's loop: it opens what arrives and answers, until ctx ends and grace is over.
func Listen(ctx context.Context, r *amqp.Responder, agent string, grace time.Duration, open func(context.Context, apply.Envelope) []byte) error {
	return r.Run(ctx, grace, func(ctx context.Context, m amqp.Request) []byte {
		signature, err := base64.StdEncoding.DecodeString(m.Headers[HeaderSignature])
		if err != nil {
			signature = nil // which nobody's is
		}
		return open(ctx, apply.Envelope{Agent: agent, ID: m.ID, Body: m.Body, Signature: signature})
	})
}
