package api

// Name is what carries a machine's mark in the DNS, or should. Problem says what does not agree; "" when all does.
type Name struct {
	Pool    string   `json:"pool"`
	Zone    string   `json:"zone"`
	Name    string   `json:"name,omitempty"`
	Holds   []string `json:"holds,omitempty"`
	Machine string   `json:"machine,omitempty"`
	Problem string   `json:"problem,omitempty"`
}
