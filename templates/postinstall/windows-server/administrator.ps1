#requires -Version 5.1
# Gives the built-in administrator, whatever it is called here, the customer's password. Safe to run again.
#
# Reads: secrets\administrator
$ErrorActionPreference = 'Stop'

$administrator = Get-LocalUser | Where-Object { $_.SID.Value -match '-500$' } | Select-Object -First 1
if (-not $administrator) {
    Write-Output 'administrator: there is no local account with the id 500: is this a domain controller?'
    exit 1
}
$password = New-Object Security.SecureString
foreach ($c in [IO.File]::ReadAllText("$env:SLIPWAY_JOB\secrets\administrator").ToCharArray()) { $password.AppendChar($c) }
Set-LocalUser -SID $administrator.SID -Password $password -PasswordNeverExpires $true
Enable-LocalUser -SID $administrator.SID
Write-Output "the password of $($administrator.Name) is set"
exit 0
