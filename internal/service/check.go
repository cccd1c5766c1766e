package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"math"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"slipway/internal/config"
	"slipway/orchestrator"
	"slipway/store"
	"slipway/templates"
	"slipway/workers/appliance/apply"
	"slipway/workers/postinstall"
)

// Finding is one thing that was tried. Skipped says that it could not be, with why in Note; Warning what is no failure and should be looked at.
type Finding struct {
	What    string
	Note    string
	Skipped bool
	Warning string
	Err     error
}

// skipped ends a try that could not be made, for a reason that is another's failure; warned one that found something to look at.
type (
	skipped string
	warned  string
)

func (s skipped) Error() string { return string(s) }
func (w warned) Error() string  { return string(w) }

// checkTimeout bounds each single try.
const checkTimeout = 20 * time.Second

// Check tries everything that a configuration says, each thing by itself, so that one fault does not hide the next. It changes nothing:
// the database is opened but not migrated, what is written to see whether it takes writes is taken away again, and agents are only asked to
// test an empty candidate.
func Check(ctx context.Context, cfg *config.Config, log *slog.Logger) iter.Seq[Finding] {
	return func(yield func(Finding) bool) {
		for _, try := range checks(cfg, log) {
			tryCtx, cancel := context.WithTimeout(ctx, checkTimeout)
			note, err := try.do(tryCtx)
			cancel()
			finding := Finding{What: try.what, Note: note, Err: err}
			var skip skipped
			var warning warned
			switch {
			case errors.As(err, &skip):
				finding = Finding{What: try.what, Note: string(skip), Skipped: true}
			case errors.As(err, &warning):
				finding = Finding{What: try.what, Warning: string(warning)}
			}
			if !yield(finding) {
				return
			}
		}
	}
}

type try struct {
	what string
	do   func(context.Context) (note string, err error)
}

func checks(cfg *config.Config, log *slog.Logger) []try {
	tries := []try{
		{"vault_key", func(context.Context) (string, error) {
			v, err := openVault(cfg)
			if err != nil {
				return "", err
			}
			return "keys " + strings.Join(v.Keys(), ", "), nil
		}},
		{"login_key", func(context.Context) (string, error) { _, err := readLoginKey(cfg); return "", err }},
		{"secrets' files", func(context.Context) (string, error) {
			if exposed := cfg.Exposed(); len(exposed) > 0 {
				return "", warned(strings.Join(exposed, "\n"))
			}
			return "", nil
		}},
		{"templates", func(context.Context) (string, error) {
			catalogue, err := loadCatalogue(cfg)
			if err != nil {
				return "", err
			}
			for _, p := range cfg.Pools {
				for image := range p.Images {
					if _, err := catalogue.Entry(image); err != nil {
						return "", fmt.Errorf("pools.%s.images: %w", p.ID, err)
					}
				}
			}
			return fmt.Sprintf("%d images", len(catalogue.Images())), checkImages(cfg, catalogue)
		}},
		{"winrm passwords", func(context.Context) (string, error) { return checkWinRM(cfg) }},
		{"database", func(ctx context.Context) (string, error) {
			dsn, err := DatabaseURL(cfg)
			if err != nil {
				return "", err
			}
			if file, ok := strings.CutPrefix(dsn, "sqlite:"); ok {
				if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
					return "", fmt.Errorf("%s is not there yet: make it with slipway migrate, or name the right file in `database`", file)
				}
			}
			s, err := store.Open(ctx, dsn)
			if err != nil {
				return "", err
			}
			note, err := checkSecrets(ctx, cfg, s, log)
			return note, errors.Join(err, s.TryWrite(ctx), fit(ctx, cfg, s), s.Close())
		}},
		{"queue", func(ctx context.Context) (string, error) { return checkQueue(ctx, cfg, log) }},
	}
	for _, p := range cfg.Pools {
		tries = append(tries, try{"pool " + p.ID, func(ctx context.Context) (string, error) { return checkPool(ctx, cfg, p, log) }})
		if p.IPAM != "" {
			tries = append(tries, try{"pool " + p.ID + " addresses of " + p.IPAM, func(ctx context.Context) (string, error) { return checkIPAM(ctx, cfg, p.ID) }})
		}
	}
	for _, g := range cfg.Groups {
		for _, m := range g.Members {
			if m.Gateway {
				tries = append(tries, try{"group " + g.ID + " member " + m.Name, func(ctx context.Context) (string, error) { return checkGateway(ctx, cfg, g) }})
				continue
			}
			tries = append(tries, try{"group " + g.ID + " member " + m.Name, func(ctx context.Context) (string, error) { return checkMember(ctx, cfg, g, m, log) }})
			if g.Unit == string(orchestrator.DHCP) {
				tries = append(tries, try{"group " + g.ID + " member " + m.Name + " ranges", func(ctx context.Context) (string, error) { return checkRanges(ctx, cfg, g, m, log) }})
			}
		}
	}
	tries = append(tries, registrationChecks(cfg)...)
	if len(cfg.Notify.Command) > 0 {
		tries = append(tries, try{"notify.command", func(context.Context) (string, error) { return "", findNotify(cfg.Notify) }})
	}
	if cfg.Notify.Webhook != "" {
		tries = append(tries, try{"notify.webhook", func(ctx context.Context) (string, error) {
			request, err := http.NewRequestWithContext(ctx, http.MethodHead, cfg.Notify.Webhook, nil)
			if err != nil {
				return "", withoutURL(err)
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				return "", withoutURL(err)
			}
			return response.Status, response.Body.Close()
		}})
	}
	return tries
}

// checkWinRM reads the passwords of the Windows templates; what they open is only known once a machine of such a template runs.
func checkWinRM(cfg *config.Config) (string, error) {
	n := 0
	for _, p := range cfg.Pools {
		for name, image := range p.Images {
			if image.WinRM == nil {
				continue
			}
			n++
			if _, err := image.WinRM.Password.Read(); err != nil {
				return "", fmt.Errorf("pools.%s.images.%s.winrm.password: %w", p.ID, name, err)
			}
		}
	}
	return fmt.Sprintf("of %d templates", n), nil
}

func loadCatalogue(cfg *config.Config) (*postinstall.Catalogue, error) {
	entries, err := fs.Sub(templates.Open(cfg.Templates), "postinstall")
	if err != nil {
		return nil, err
	}
	return postinstall.Load(entries)
}

func checkQueue(ctx context.Context, cfg *config.Config, log *slog.Logger) (string, error) {
	if cfg.Queue.Kind == "embedded" {
		return "embedded", nil
	}
	q, err := openQueue(cfg, nil, log)
	if err != nil {
		return "", err
	}
	defer q.Close()
	letters, err := q.Dead(ctx, 1000)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d dead letters", len(letters)), nil
}

// checkPool asks the pool what it has, and holds the configuration against it.
func checkPool(ctx context.Context, cfg *config.Config, p config.Pool, log *slog.Logger) (string, error) {
	one := *cfg
	one.Pools = []config.Pool{p}
	backend, err := openHypervisor(&one, func(string) {}, log)
	if err != nil {
		return "", err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = backend.Close(ctx) // the session ends with the pool's own timer then
	}()
	inventory, err := backend.Inventory(ctx, p.ID)
	if err != nil {
		return "", err
	}
	if !slices.Contains(inventory.Networks, p.Network) {
		return "", fmt.Errorf("network: the pool has no network %s; it has %v", p.Network, inventory.Networks)
	}
	for image := range p.Images {
		if inventory.Templates[image] == "" {
			return "", fmt.Errorf("images.%s: the pool has no template for it; name its uuid, or set other_config:slipway_image=%s on the template", image, image)
		}
	}
	return fmt.Sprintf("%d hosts, %d storages, %d templates", len(inventory.Hosts), len(inventory.SRs), len(inventory.Templates)), nil
}

// checkMember has the agent test an empty state of ours with the real tool: the way there, the lock, the tool and the site's own files.
// A test needs no lease; its fence is beyond all, for an agent that has worked for serve answers nobody with a lower one.
func checkMember(ctx context.Context, cfg *config.Config, g config.Group, m config.Member, log *slog.Logger) (string, error) {
	ways := &carriers{cfg: cfg, log: log}
	defer ways.Close()
	c, err := ways.open(m)
	if err != nil {
		return "", err
	}
	render, err := renderer(cfg, g, templates.Open(cfg.Templates), nil)
	if err != nil {
		return "", err
	}
	rendering, _, err := render(nil)
	if err != nil {
		return "", err
	}
	answer, err := c.Apply(ctx, apply.Request{Unit: g.Unit, Fence: math.MaxInt64, Files: rendering.Files, SHA256: apply.Sum(rendering.Files), CheckOnly: true})
	if err != nil {
		return "", err
	}
	if answer.Code != apply.Checked {
		return "", fmt.Errorf("%s: %s", answer.Code, answer.Message)
	}
	return fmt.Sprintf("carries generation %d with %d entries; %s", answer.Generation, answer.Rows, orElse(answer.Message, "the tool accepts an empty state")), nil
}
