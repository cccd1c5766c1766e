package service

import (
	"encoding/json"
	"fmt"
	"net/http"

	"slipway/internal/api"
	"slipway/orchestrator"
)

// administratorAccount is what Windows calls it unless its template was renamed; it is the account whose SID ends in 500.
const administratorAccount = "Administrator"

// postPassword opens a Windows machine's first administrator's password for the caller, after the act was recorded: nobody reads one unseen.
func (s *Service) postPassword(r *http.Request) (any, error) {
	ctx := r.Context()
	var ask api.AskPassword
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		return nil, orchestrator.FieldErrors{{Field: "body", Problem: "is not a question for a password", Fix: "send {\"reason\": …}"}}
	}
	m, err := s.find(r)
	if err != nil {
		return nil, err
	}
	if len(m.AdministratorPassword) == 0 {
		return nil, &api.Error{Code: api.CodeConflict, Next: "slipway show " + m.ID,
			Message: fmt.Sprintf("machine %s has no administrator's password: its image %s is entered with the order's SSH keys", m.ID, m.Image)}
	}
	password, err := s.Vault.Open(m.ID, orchestrator.SealedAdmin, m.AdministratorPassword)
	if err != nil {
		return nil, err
	}
	if err := s.Store.RecordAct(ctx, actor(ctx), "read-password", m.ID, ask.Reason); err != nil {
		return nil, err
	}
	s.log.Info("administrator's password read", "machine", m.ID, "actor", actor(ctx), "reason", ask.Reason)
	return api.Password{Machine: m.ID, Tenant: m.Tenant, Name: m.Name, Account: administratorAccount, Password: password.Reveal(), Set: m.Identity != ""}, nil
}
