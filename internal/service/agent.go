package service

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	cryptossh "golang.org/x/crypto/ssh"

	"slipway/internal/config"
	"slipway/workers/appliance/agent"
	"slipway/workers/appliance/apply"
	"slipway/workers/appliance/carrier"
	"slipway/workers/queue/amqp"
)

// agentGrace is what an apply that is under way gets to end by itself when the agent is told to stop; then it puts the old state back.
const agentGrace = 30 * time.Second

// agentQueue is the queue section of an agent's configuration:
//
//	queue:
//	  agent: dhcp2
//	  url: amqps://agent-dhcp2@mq.example.net/slipway
//	  password: {credential: amqp}
//	  authorized: ["ssh-ed25519 AAAA… slipway"]
type agentQueue struct {
	Agent      string        `yaml:"agent"`
	URL        string        `yaml:"url"` // without a password
	Password   config.Secret `yaml:"password"`
	CAFile     string        `yaml:"ca_file"`    // absolute; "" is the system's
	Authorized []string      `yaml:"authorized"` // public keys of those who may ask, in the form of authorized_keys
}

// ServeAgent answers what workers ask over the broker, until ctx ends.
func ServeAgent(ctx context.Context, cfg agent.Config, log *slog.Logger) error {
	if cfg.Queue == nil {
		return errors.New("agent configuration: queue: is missing; say which broker to listen on, and under which name")
	}
	var q agentQueue
	if err := cfg.Queue.Decode(&q); err != nil {
		return fmt.Errorf("agent configuration: queue: %w", err)
	}
	keys, err := q.validate()
	if err != nil {
		return fmt.Errorf("agent configuration: queue.%w", err)
	}
	address, err := withPassword(q.URL, q.Password)
	if err != nil {
		return fmt.Errorf("agent configuration: queue: %w", err)
	}
	a, err := agent.New(cfg, Registry(), log)
	if err != nil {
		return err
	}
	responder, err := amqp.NewResponder(amqp.Config{URL: address, CAFile: q.CAFile, Log: log}, amqp.AgentQueue(q.Agent))
	if err != nil {
		return fmt.Errorf("agent configuration: queue: %w", err)
	}
	err = carrier.Listen(ctx, responder, q.Agent, agentGrace, func(ctx context.Context, e apply.Envelope) []byte {
		return a.Open(ctx, e, keys, amqp.MaxBody)
	})
	return errors.Join(err, responder.Close())
}

func (q agentQueue) validate() ([]ed25519.PublicKey, error) {
	switch {
	case !config.AgentName(q.Agent):
		return nil, fmt.Errorf("agent: %.60q is not a name; use that of the member's queue.agent in the workers' configuration", q.Agent)
	case !config.PrivateBroker(q.URL):
		return nil, errors.New("url: write amqps://USER@HOST/VHOST: what is asked and answered holds secrets")
	case config.HasPassword(q.URL):
		return nil, errors.New("url: holds a password; move it to password")
	case q.Password.IsZero():
		return nil, errors.New("password: is missing; say where the account's is")
	case q.CAFile != "" && !filepath.IsAbs(q.CAFile):
		return nil, fmt.Errorf("ca_file: %q is not an absolute path", q.CAFile)
	case len(q.Authorized) == 0:
		return nil, errors.New("authorized: is empty, and nobody may ask; give the public half of the workers' key, a line such as ssh-ed25519 AAAA… slipway")
	}
	var keys []ed25519.PublicKey
	for i, line := range q.Authorized {
		parsed, _, _, rest, err := cryptossh.ParseAuthorizedKey([]byte(line))
		if err != nil || len(rest) > 0 || parsed.Type() != cryptossh.KeyAlgoED25519 {
			return nil, fmt.Errorf("authorized[%d]: is not one public key of type ssh-ed25519", i) // not quoted: it may be a private one
		}
		key, ok := parsed.(cryptossh.CryptoPublicKey).CryptoPublicKey().(ed25519.PublicKey)
		if !ok {
			return nil, fmt.Errorf("authorized[%d]: is not an ed25519 key", i)
		}
		keys = append(keys, key)
	}
	return keys, nil
}
