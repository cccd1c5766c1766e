package api

import "time"

// ConsoleAsk asks for a link to a machine's screen: POST /v1/console/{machine}.
type ConsoleAsk struct {
	User string `json:"user"`           // who will look, for the audit trail
	From string `json:"from,omitempty"` // the only address that the link opens for; "" is any
}

// ConsoleLink opens the screen once. URL is as secret as a password until it was opened or has expired.
type ConsoleLink struct {
	Machine string    `json:"machine"`
	Name    string    `json:"name"`
	URL     string    `json:"url"`
	Expires time.Time `json:"expires"`
}

// ConsoleRevoked answers DELETE /v1/console/{machine} with how many links and sessions that ended.
type ConsoleRevoked struct {
	Machine string `json:"machine"`
	Revoked int    `json:"revoked"`
}
