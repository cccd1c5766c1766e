package api

import "time"

// Secrets counts the secrets in the database by the key that they are sealed under.
type Secrets struct {
	Values  int             `json:"values"`
	Keys    []SecretsKey    `json:"keys"` // those of this worker, the newest last; then those that it lacks
	Workers []SecretsWorker `json:"workers"`
	// Closed names some of the values that no key opens, ClosedCount all of them.
	Closed      []string `json:"closed,omitempty"`
	ClosedCount int      `json:"closed_count"`
}

// SecretsKey is one key, by its id.
type SecretsKey struct {
	ID      string `json:"id"`
	Values  int    `json:"values"`
	OldForm int    `json:"old_form"` // of them, those that do not name their key
	Held    bool   `json:"held"`     // by this worker
	Newest  bool   `json:"newest"`   // the last of its file
	Seals   bool   `json:"seals"`
}

// SecretsWorker is a process that opens secrets.
type SecretsWorker struct {
	Worker string    `json:"worker"`
	Keys   []string  `json:"keys"`
	Seen   time.Time `json:"seen"`
}

// Rotate asks for the next secrets to be sealed under the newest key.
type Rotate struct {
	Begin  bool   `json:"begin"` // make the newest key the one that seals
	After  string `json:"after"` // what the last answer said, "" at first
	Limit  int    `json:"limit"` // machines; 0 is as many as one request takes
	Reason string `json:"reason"`
	Yes    bool   `json:"yes"`
}

// Rotated answers it.
type Rotated struct {
	Key      string   `json:"key"`
	Values   int      `json:"values"` // that were looked at
	Resealed int      `json:"resealed"`
	Failed   []string `json:"failed,omitempty"`
	Next     string   `json:"next"` // "" at the end
}
