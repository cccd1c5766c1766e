#requires -Version 5.1
# Makes WinRM's HTTPS listener show the machine's own certificate. Connections that are open stay. Safe to run again.
#
# Reads: params.certificate (SHA-256, hex), params.hostname, secrets\certificate.pfx, secrets\certificate.password
$ErrorActionPreference = 'Stop'
$params = Get-Content -Raw -LiteralPath "$env:SLIPWAY_JOB\params.json" | ConvertFrom-Json

$flags = [Security.Cryptography.X509Certificates.X509KeyStorageFlags]'MachineKeySet,PersistKeySet'
$word = [IO.File]::ReadAllText("$env:SLIPWAY_JOB\secrets\certificate.password")
$certificate = New-Object Security.Cryptography.X509Certificates.X509Certificate2 "$env:SLIPWAY_JOB\secrets\certificate.pfx", $word, $flags
$hash = [BitConverter]::ToString([Security.Cryptography.SHA256]::Create().ComputeHash($certificate.RawData)).Replace('-', '')
if ($hash -ne $params.certificate) {
    Write-Output 'certificate: the file holds another certificate than the job names'
    exit 1
}
$store = New-Object Security.Cryptography.X509Certificates.X509Store 'My', 'LocalMachine'
$store.Open('ReadWrite')
try { $store.Add($certificate) } finally { $store.Close() }

$listener = Get-WSManInstance -ResourceURI winrm/config/Listener -Enumerate | Where-Object { $_.Transport -eq 'HTTPS' } | Select-Object -First 1
$value = @{ Hostname = $params.hostname; CertificateThumbprint = $certificate.Thumbprint }
if ($listener) {
    Set-WSManInstance -ResourceURI winrm/config/Listener -SelectorSet @{ Address = $listener.Address; Transport = 'HTTPS' } -ValueSet $value | Out-Null
} else {
    New-WSManInstance -ResourceURI winrm/config/Listener -SelectorSet @{ Address = '*'; Transport = 'HTTPS' } -ValueSet $value | Out-Null
}
Write-Output "the HTTPS listener shows certificate $hash"
exit 0
