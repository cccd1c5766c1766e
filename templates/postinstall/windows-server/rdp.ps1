#requires -Version 5.1
# Lets the customer in by Remote Desktop, with network level authentication. Safe to run again.
$ErrorActionPreference = 'Stop'

$server = 'HKLM:\SYSTEM\CurrentControlSet\Control\Terminal Server'
Set-ItemProperty -LiteralPath $server -Name fDenyTSConnections -Value 0 -Type DWord
Set-ItemProperty -LiteralPath "$server\WinStations\RDP-Tcp" -Name UserAuthentication -Value 1 -Type DWord
Set-Service -Name TermService -StartupType Automatic
Start-Service -Name TermService
Write-Output 'remote desktop is on'
exit 0
