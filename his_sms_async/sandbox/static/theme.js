// Before anything is painted: the theme that was chosen here, if it is not that of the system.
document.documentElement.dataset.theme = localStorage.getItem("his-sms-theme") ?? "";
