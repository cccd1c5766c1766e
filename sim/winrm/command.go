package winrm

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
)

// maxLine is the longest command line that cmd.exe takes.
const maxLine = 8191

// run carries out a command line: a handful of cmd's own, and PowerShell as far as -EncodedCommand goes.
func (s *Server) run(ctx context.Context, c *command, line string) int {
	if len(utf16.Encode([]rune(line))) > maxLine {
		c.errorf("The command line is too long.\r\n")
		return 1
	}
	word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	switch strings.ToLower(strings.TrimSuffix(word, ".exe")) {
	case "echo":
		c.print(rest + "\r\n")
		return 0
	case "hostname":
		c.print(s.guest.name() + "\r\n")
		return 0
	case "exit":
		n, _ := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(rest, "/b")))
		return n
	case "more": // what it reads, it says
		text, _ := c.input(ctx)
		c.print(string(text))
		return 0
	case "timeout": // timeout /t SECONDS
		seconds, _ := strconv.ParseFloat(strings.TrimSpace(strings.TrimPrefix(rest, "/t")), 64)
		if !wait(ctx, time.Duration(seconds*float64(time.Second))) {
			return 1
		}
		return 0
	case "powershell":
		return s.powershell(ctx, c, rest)
	}
	c.errorf("'" + word + "' is not recognized as an internal or external command,\r\noperable program or batch file.\r\n")
	return 1
}

// wait is false when the command was killed first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *Server) powershell(ctx context.Context, c *command, arguments string) int {
	script := ""
	words := strings.Fields(arguments)
	for i, w := range words {
		if strings.EqualFold(w, "-EncodedCommand") && i+1 < len(words) {
			script = decodeCommand(words[i+1])
		}
	}
	if strings.HasPrefix(script, runnerMark) {
		text, ok := c.input(ctx)
		if !ok || !wait(ctx, s.config.Slow) {
			return 1
		}
		answer, code := s.guest.runner(string(text))
		c.print(answer)
		return code
	}
	return s.statements(c, script)
}

// decodeCommand reads -EncodedCommand: base64 of UTF-16, little endian. Anything else is "".
func decodeCommand(text string) string {
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(b)%2 != 0 {
		return ""
	}
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(units))
}

var (
	writeOutput = regexp.MustCompile(`^Write-Output '([^']*)'$`)
	writeMany   = regexp.MustCompile(`^Write-Output \('([^'])' \* ([0-9]{1,7})\)$`)
	writeError  = regexp.MustCompile(`^\[Console\]::Error\.WriteLine\('([^']*)'\)$`)
	exitWith    = regexp.MustCompile(`^exit ([0-9]{1,5})$`)
)

// statements is what little PowerShell other clients need to see that a script reaches the guest whole. It is no interpreter.
func (s *Server) statements(c *command, script string) int {
	for statement := range strings.FieldsFuncSeq(script, func(r rune) bool { return r == ';' || r == '\n' }) {
		statement = strings.TrimSpace(statement)
		if m := writeOutput.FindStringSubmatch(statement); m != nil {
			c.print(m[1] + "\r\n")
		} else if m := writeMany.FindStringSubmatch(statement); m != nil {
			n, _ := strconv.Atoi(m[2])
			c.print(strings.Repeat(m[1], n) + "\r\n")
		} else if m := writeError.FindStringSubmatch(statement); m != nil {
			c.errorf(m[1] + "\r\n")
		} else if m := exitWith.FindStringSubmatch(statement); m != nil {
			n, _ := strconv.Atoi(m[1])
			return n
		} else if statement != "" && !strings.HasPrefix(statement, "$ProgressPreference") {
			c.errorf("this guest has no PowerShell; it does not know: " + statement + "\r\n")
			return 1
		}
	}
	return 0
}
