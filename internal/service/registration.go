package service

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"

	"slipway/internal/config"
	"slipway/orchestrator"
	"slipway/workers/monitoring/rest"
	"slipway/workers/names/rfc2136"
)

// openNames has a server for each pool that is configured with one.
func openNames(cfg *config.Config) (*rfc2136.Client, error) {
	servers := map[string]rfc2136.Server{}
	for _, p := range cfg.Pools {
		if p.DNS.Zone == "" {
			continue
		}
		secret, err := p.DNS.Key.Secret.Read()
		if err != nil {
			return nil, fmt.Errorf("pools.%s.dns.key.secret: %w", p.ID, err)
		}
		servers[p.ID] = rfc2136.Server{Address: p.DNS.Address(), KeyName: p.DNS.Key.Name, Algorithm: p.DNS.Key.Algorithm, Secret: secret, TTL: p.DNS.TTL}
	}
	client, err := rfc2136.New(rfc2136.Config{Servers: servers})
	if err != nil {
		return nil, fmt.Errorf("pools.dns.key: %w", err)
	}
	return client, nil
}

// openMonitoring is nil where none is configured.
func openMonitoring(cfg *config.Config) (*rest.Client, error) {
	m := cfg.Monitoring
	if m.URL == "" {
		return nil, nil
	}
	c := rest.Config{URL: m.URL}
	if !m.Token.IsZero() {
		var err error
		if c.Token, err = m.Token.Read(); err != nil {
			return nil, fmt.Errorf("monitoring.token: %w", err)
		}
	}
	if m.CAFile != "" {
		text, err := os.ReadFile(m.CAFile)
		if err != nil {
			return nil, fmt.Errorf("monitoring.ca_file: %w", err)
		}
		c.Roots = x509.NewCertPool()
		if !c.Roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("monitoring.ca_file: %s holds no certificate in PEM", m.CAFile)
		}
	}
	client, err := rest.New(c)
	if err != nil {
		return nil, fmt.Errorf("monitoring.url: %w", err)
	}
	return client, nil
}

// monitor is the port for the steps; a client that is not there is no port.
func monitor(client *rest.Client) orchestrator.Monitoring {
	if client == nil {
		return nil
	}
	return client
}

// registrationChecks try what a pool's machines are registered with. Nothing is changed.
func registrationChecks(cfg *config.Config) []try {
	var tries []try
	for _, p := range cfg.Pools {
		if p.DNS.Zone == "" {
			continue
		}
		tries = append(tries, try{"dns of pool " + p.ID, func(ctx context.Context) (string, error) {
			one := *cfg
			one.Pools = []config.Pool{p}
			client, err := openNames(&one)
			if err != nil {
				return "", err
			}
			return checkDNS(ctx, client, p)
		}})
	}
	if cfg.Monitoring.URL != "" {
		tries = append(tries, try{"monitoring", func(ctx context.Context) (string, error) {
			client, err := openMonitoring(cfg)
			if err != nil {
				return "", err
			}
			defer client.Close()
			// Nobody's id: whoever answers that there is no such host takes the token and speaks the contract.
			_, err = client.ObserveHost(ctx, "00000000-0000-0000-0000-000000000000")
			if err == nil {
				return "", errors.New("it knows a host whose id is all zeros, and may answer so to any")
			}
			if !errors.Is(err, orchestrator.ErrNotFound) {
				return "", err
			}
			return "it answers", nil
		}})
	}
	return tries
}

func checkDNS(ctx context.Context, client *rfc2136.Client, p config.Pool) (note string, err error) {
	zones := []string{p.DNS.Zone}
	for _, z := range p.DNS.Reverse {
		if !slices.Contains(zones, z.Zone) {
			zones = append(zones, z.Zone)
		}
	}
	note = fmt.Sprintf("the key may update %d zones", len(zones))
	for _, zone := range zones {
		if err := client.Try(ctx, p.ID, zone); err != nil {
			return "", err
		}
		if _, err := client.List(ctx, p.ID, zone); err != nil {
			note = fmt.Sprintf("the key may update %d zones; it may not transfer them, so that `slipway names` cannot look through them", len(zones))
		}
	}
	return note, nil
}
