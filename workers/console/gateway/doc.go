// Package gateway shows machines' screens to their customers: in the browser, over a WebSocket, and to VNC viewers, over RFB. Behind it is
// the console of the host where the machine runs at that moment (orchestrator.Display).
//
// A browser comes with a link whose token of 32 random bytes opens once, within a minute, for one user and one machine; what it gets for
// it is a cookie that is good for reconnects until the session's end. Only hashes are stored (orchestrator.ConsolePasses), so that several
// gateways serve the same users and a stolen database opens nothing. A VNC viewer names the machine (security type 22) and answers a random
// challenge with the machine's console password.
//
// Both ends of the RFB handshake are spoken here: a viewer is let in only when the machine's screen has answered, and what it is told of
// the screen has passed through our own reader. The picture itself is copied as it comes.
//
// A connection ends when its viewer or its screen goes, when the session ends, and within CheckEvery after the machine's console was
// closed: by an uninstall, a suspension or a new password.
package gateway
