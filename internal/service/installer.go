package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"

	"slipway/internal/config"
	"slipway/orchestrator"
	"slipway/workers/postinstall"
	"slipway/workers/postinstall/ssh"
	"slipway/workers/postinstall/winrm"
)

// installers sends each guest to the installer of its image's transport. It implements orchestrator.Installer.
type installers struct {
	catalogue *postinstall.Catalogue
	by        map[postinstall.Transport]orchestrator.Installer
}

var _ orchestrator.Installer = installers{}

type dialer = func(ctx context.Context, network, address string) (net.Conn, error)

// openInstallers connects to nothing yet.
func openInstallers(cfg *config.Config, catalogue *postinstall.Catalogue, dial dialer, log *slog.Logger) (installers, error) {
	if err := checkImages(cfg, catalogue); err != nil {
		return installers{}, err
	}
	signer, err := readLoginKey(cfg)
	if err != nil {
		return installers{}, fmt.Errorf("login_key: %w", err)
	}
	type template struct{ pool, image string }
	keys, logins := map[template][]string{}, map[template]winrm.Template{}
	for _, p := range cfg.Pools {
		for name, image := range p.Images {
			at := template{p.ID, name}
			if image.WinRM == nil {
				keys[at] = []string{image.HostKey}
				continue
			}
			password, err := image.WinRM.Password.Read()
			if err != nil {
				return installers{}, fmt.Errorf("pools.%s.images.%s.winrm.password: %w", p.ID, name, err)
			}
			logins[at] = winrm.Template{Password: password, PinSHA256: image.WinRM.PinSHA256}
		}
	}
	overSSH, err := ssh.New(ssh.Config{
		Catalogue: catalogue, Key: signer, Dial: dial,
		TemplateKeys: func(pool, image string) []string { return keys[template{pool, image}] },
	})
	if err != nil {
		return installers{}, err
	}
	overWinRM, err := winrm.New(winrm.Config{
		Catalogue: catalogue, Dial: dial, HTTP: cfg.WinRM.InsecureHTTP, Basic: cfg.WinRM.Basic, Log: log,
		Templates: func(pool, image string) winrm.Template { return logins[template{pool, image}] },
	})
	if err != nil {
		return installers{}, err
	}
	return installers{catalogue, map[postinstall.Transport]orchestrator.Installer{
		postinstall.TransportSSH: overSSH, postinstall.TransportWinRM: overWinRM,
	}}, nil
}

// checkImages holds what the pools' images are configured with against how the catalogue reaches them. An image that the catalogue does
// not have is not judged: the estate refuses its orders, and `slipway check` names it.
func checkImages(cfg *config.Config, catalogue *postinstall.Catalogue) error {
	var errs orchestrator.FieldErrors
	for _, p := range cfg.Pools {
		for name, image := range p.Images {
			entry, err := catalogue.Entry(name)
			field := fmt.Sprintf("pools.%s.images.%s", p.ID, name)
			switch {
			case err != nil:
			case entry.Transport == postinstall.TransportWinRM && image.WinRM == nil:
				errs = append(errs, orchestrator.FieldError{Field: field + ".winrm", Problem: "is missing, and the image is reached over WinRM",
					Fix: "give it the password of the template's account " + entry.User + " and the SHA-256 of its WinRM certificate, in place of host_key"})
			case entry.Transport == postinstall.TransportSSH && image.WinRM != nil:
				errs = append(errs, orchestrator.FieldError{Field: field + ".winrm", Problem: "has no meaning: the image is reached over SSH", Fix: "give it host_key in its place"})
			}
		}
	}
	if len(errs) == 0 {
		return nil
	}
	slices.SortFunc(errs, func(a, b orchestrator.FieldError) int { return strings.Compare(a.Field, b.Field) })
	return errs
}

func (i installers) of(image string) (orchestrator.Installer, error) {
	entry, err := i.catalogue.Entry(image)
	if err != nil {
		return nil, err
	}
	return i.by[entry.Transport], nil
}

// Ports implements orchestrator.Installer.
func (i installers) Ports(image string) ([]uint16, error) {
	to, err := i.of(image)
	if err != nil {
		return nil, err
	}
	return to.Ports(image)
}

// Serves implements orchestrator.Installer.
func (i installers) Serves(image string) ([]uint16, error) {
	to, err := i.of(image)
	if err != nil {
		return nil, err
	}
	return to.Serves(image)
}

// Probe implements orchestrator.Installer.
func (i installers) Probe(ctx context.Context, g orchestrator.Guest) (string, error) {
	to, err := i.of(g.Image)
	if err != nil {
		return "", err
	}
	return to.Probe(ctx, g)
}

// EnsureJob implements orchestrator.Installer.
func (i installers) EnsureJob(ctx context.Context, g orchestrator.Guest, job orchestrator.Job) error {
	to, err := i.of(g.Image)
	if err != nil {
		return err
	}
	return to.EnsureJob(ctx, g, job)
}

// ObserveJob implements orchestrator.Installer.
func (i installers) ObserveJob(ctx context.Context, g orchestrator.Guest, job string, offset int64) (orchestrator.JobStatus, error) {
	to, err := i.of(g.Image)
	if err != nil {
		return orchestrator.JobStatus{}, err
	}
	return to.ObserveJob(ctx, g, job, offset)
}

// Inspect implements orchestrator.Installer.
func (i installers) Inspect(ctx context.Context, g orchestrator.Guest) (orchestrator.Inspection, error) {
	to, err := i.of(g.Image)
	if err != nil {
		return orchestrator.Inspection{}, err
	}
	return to.Inspect(ctx, g)
}

// Leave implements orchestrator.Installer.
func (i installers) Leave(ctx context.Context, g orchestrator.Guest) error {
	to, err := i.of(g.Image)
	if err != nil {
		return err
	}
	return to.Leave(ctx, g)
}

// installable refuses at the border what would park at post_install, when everything else is there already.
func installable(catalogue *postinstall.Catalogue) func(orchestrator.Order) error {
	return func(o orchestrator.Order) error {
		var errs orchestrator.FieldErrors
		entry, err := catalogue.Entry(o.Image)
		switch {
		case err != nil:
			// Of an image that it does not know at all the estate says which there are.
			if problem, fix := catalogue.NotComposed(o.Image); problem != "" {
				errs = append(errs, orchestrator.FieldError{Field: "image", Problem: problem, Fix: fix})
			}
		case entry.Transport == postinstall.TransportWinRM:
			errs = windowsErrors(o)
		default:
			errs = linuxErrors(o)
		}
		if len(errs) == 0 {
			return nil
		}
		return errs
	}
}

func windowsErrors(o orchestrator.Order) (errs orchestrator.FieldErrors) {
	var refused orchestrator.FieldError
	if errors.As(winrm.CheckHostname(o.GuestName()), &refused) {
		if o.Hostname == "" {
			refused.Problem = "is left out, and the name stands in: " + refused.Problem
		}
		errs = append(errs, refused)
	}
	return errs
}

// maxGuestName is HOST_NAME_MAX of Linux.
const maxGuestName = 64

func linuxErrors(o orchestrator.Order) (errs orchestrator.FieldErrors) {
	if len(o.SSHKeys) == 0 {
		errs = append(errs, orchestrator.FieldError{Field: "ssh_keys", Problem: "is empty, and nobody could log in", Fix: "give one public key, such as ssh-ed25519 AAAA… name"})
	}
	if len(o.GuestName()) > maxGuestName {
		errs = append(errs, orchestrator.FieldError{Field: "hostname", Problem: fmt.Sprintf("has %d characters", len(o.GuestName())), Fix: fmt.Sprintf("use at most %d: Linux takes no more", maxGuestName)})
	}
	return errs
}

// administered says of which images a customer logs in with an administrator's password.
func administered(catalogue *postinstall.Catalogue) func(image string) bool {
	return func(image string) bool {
		entry, err := catalogue.Entry(image)
		return err == nil && entry.Transport == postinstall.TransportWinRM
	}
}
