package service

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"slipway/internal/api"
	"slipway/orchestrator"
)

// administratorAccount is what Windows calls it unless its template was renamed; it is the account whose SID ends in 500.
const administratorAccount = "Administrator"

// postPassword opens a Windows machine's first administrator's password for the caller.
func (s *Service) postPassword(r *http.Request) (any, error) {
	m, reason, err := s.askedPassword(r)
	if err != nil {
		return nil, err
	}
	if len(m.AdministratorPassword) == 0 {
		return nil, &api.Error{Code: api.CodeConflict, Next: "slipway show " + m.ID,
			Message: fmt.Sprintf("machine %s has no administrator's password: its image %s is entered with the order's SSH keys", m.ID, m.Image)}
	}
	password, err := s.reveal(r.Context(), m, kept{
		name: orchestrator.SealedAdmin, sealed: m.AdministratorPassword, what: "administrator's password", verb: "read-password",
	}, reason)
	if err != nil {
		return nil, err
	}
	return api.Password{Machine: m.ID, Tenant: m.Tenant, Name: m.Name, Account: administratorAccount, Password: password.Reveal(), Set: m.Identity != ""}, nil
}

// askedPassword is the machine of a question for a password, and why it is asked.
func (s *Service) askedPassword(r *http.Request) (m orchestrator.Machine, reason string, err error) {
	var ask api.AskPassword
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		return m, "", orchestrator.FieldErrors{{Field: "body", Problem: "is not a question for a password", Fix: "send {\"reason\": …}"}}
	}
	if err := needReason(ask.Reason); err != nil {
		return m, "", err
	}
	m, err = s.find(r)
	return m, ask.Reason, err
}

// kept is one of a machine's passwords: the vault's name for it, and what the log and the audit trail call it and its reading.
type kept struct {
	name       string
	sealed     orchestrator.Sealed
	what, verb string
}

// reveal opens a password for the caller, after the act was recorded: nobody reads one unseen.
func (s *Service) reveal(ctx context.Context, m orchestrator.Machine, k kept, reason string) (orchestrator.Secret, error) {
	password, err := s.Vault.Open(m.ID, k.name, k.sealed)
	if err != nil {
		return orchestrator.Secret{}, err
	}
	if err := s.Store.RecordAct(ctx, actor(ctx), k.verb, m.ID, reason); err != nil {
		return orchestrator.Secret{}, err
	}
	s.log.Info(k.what+" read", "machine", m.ID, "actor", actor(ctx), "reason", reason)
	return password, nil
}
