// Package winrm stands in for a Windows guest that is reached over WinRM: WS-Management on the wire, and behind it a small picture of the
// guest that slipway's own runner sees.
//
// On the wire it follows MS-WSMV and MS-WSMAN as far as remote shells go: Create, Command, Send, Receive, Signal and Delete; output in
// chunks; the faults for a passed OperationTimeout, a shell that is not there and too many shells; Basic, and NTLM (MS-NLMP) with and
// without message encryption; HTTPS with a certificate of its own. It is strict where Windows is: a command line of more than 8,191
// characters is not run, a body in the clear over HTTP is refused unless that is allowed, a connection is who it was authenticated as.
//
// No real Windows was available when this was written. The wire is judged by two clients that others wrote (masterzen/winrm and
// pywinrm), which have been used against Windows for years; the guest behind it is not judged by anything. There is no PowerShell here:
// the runner's bootstrap is recognised by its first line, and its verbs are carried out by guest.go as runner.ps1 describes them. So what
// a test with this guest proves is the protocol, the detached-job contract and what happens around restarts; it proves nothing about
// the PowerShell text of runner.ps1 or of the catalogue's scripts.
package winrm
